const units =
  'zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen'.split(
    ' ',
  );
const tens = 'twenty thirty forty fifty sixty seventy eighty ninety'.split(' ');
const scales: Record<string, number> = { thousand: 1e3, million: 1e6, billion: 1e9 };

/** The whole number that English words spell (`twenty-five`, `one hundred and two`), or null when they are not a number and nothing else. */
export function parseNumberWords(text: string): number | null {
  const words = text.toLowerCase().split(/[\s-]+/);
  if (words.length > 16) return null;
  let total = 0;
  let group: number | null = null;
  for (const [index, word] of words.entries()) {
    const small = units.indexOf(word);
    const ten = tens.indexOf(word);
    if (small >= 0 && (group === null || (small > 0 && group % (small < 10 ? 10 : 100) === 0)))
      group = (group ?? 0) + small;
    else if (ten >= 0 && (group ?? 0) % 100 === 0) group = (group ?? 0) + 20 + 10 * ten;
    else if (word === 'hundred' && group !== null && group > 0 && group < 100) group *= 100;
    else if (word in scales && group !== null && group > 0 && (total === 0 || total % (scales[word]! * 1000) === 0)) {
      total += group * scales[word]!;
      group = null;
    } else if (!(word === 'and' && index > 0 && index < words.length - 1)) return null;
  }
  return group === null && total === 0 ? null : total + (group ?? 0);
}
