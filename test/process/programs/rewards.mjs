// Rewards as people write them, the bad ones too.
const length = (batch) => batch.map(({ completion }) => completion.length);

export const score = length;
export const asObject = { name: 'object', factor: 2, score: (batch) => length(batch).map((n) => n * asObject.factor) };
export const factory = (factor) => (batch) => Float64Array.from(length(batch), (n) => n * factor);
export const notAReward = 3;
export const fewer = () => [];

/** Does what the completion says. */
export function troubled(batch) {
  return batch.map(({ completion }) => {
    if (completion === 'hang') for (;;);
    if (completion === 'exit') process.exit(3);
    if (completion === 'throw') throw new Error('cannot score this');
    if (completion === 'skip') return null;
    if (completion === 'later') setTimeout(() => JSON.parse('{'), 0);
    if (completion === 'memory') {
      const hoard = [];
      for (;;) hoard.push(new Array(1e5).fill({}));
    }
    return 1;
  });
}
