import { InvalidArgumentError } from '../errors.js';

const longestList = 65_536;

/** The hosts of a list as Slurm writes it: `a,node[01-03,7]x[1-2]` is a, node01x1, node01x2, node02x1, ... */
export function expandHostlist(list: string): string[] {
  const hosts = splitOutsideBrackets(list).flatMap((entry) => expandEntry(entry, list));
  if (hosts.length === 0) throw invalid(list);
  return hosts;
}

function splitOutsideBrackets(list: string): string[] {
  const entries: string[] = [];
  let depth = 0;
  let start = 0;
  for (let i = 0; i <= list.length; i++) {
    const letter = list[i];
    if (letter === '[') depth++;
    if (letter === ']') depth--;
    if (depth < 0 || depth > 1 || (letter === undefined && depth !== 0)) throw invalid(list);
    if (letter !== undefined && (letter !== ',' || depth > 0)) continue;
    entries.push(list.slice(start, i).trim());
    start = i + 1;
  }
  if (entries.some((entry) => entry === '')) throw invalid(list);
  return entries;
}

function expandEntry(entry: string, list: string): string[] {
  const match = /^([^[\]]*)\[([^[\]]*)\](.*)$/.exec(entry);
  if (!match) return [entry];
  const [, before, ranges, after] = match as unknown as [string, string, string, string];
  const endings = after === '' ? [''] : expandEntry(after, list);
  const names = ranges
    .split(',')
    .flatMap((range) => expandRange(range.trim(), list))
    .flatMap((number) => endings.map((ending) => `${before}${number}${ending}`));
  if (names.length > longestList) throw invalid(list);
  return names;
}

/** `7` or `08-11`; the first number says how many digits there are. */
function expandRange(range: string, list: string): string[] {
  const match = /^(\d+)(?:-(\d+))?$/.exec(range);
  if (!match) throw invalid(list);
  const [first, last] = [Number(match[1]), Number(match[2] ?? match[1])];
  if (last < first || last - first >= longestList) throw invalid(list);
  const digits = match[1]!.length;
  return Array.from({ length: last - first + 1 }, (_, i) => String(first + i).padStart(digits, '0'));
}

function invalid(list: string): InvalidArgumentError {
  return new InvalidArgumentError('SLURM_JOB_NODELIST', 'a list of hosts such as node[01-04,7]', list);
}
