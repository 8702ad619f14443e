import { bytesPerElement, type TensorView } from '../backend.js';
import type { Abilities } from './abilities.js';
import type { Dispatch } from './operations/dispatch.js';
import { wgslSources } from './wgsl-sources.js';

/** A stretch of one storage that a run of a shader binds, and whether the run writes there. */
export interface BoundStorage {
  storage: number;
  written: boolean;
  /** 16-bit elements of a word are written by different threads: the words are atomic then. */
  atomic: boolean;
  /** Bytes; `begin` is a multiple of the device's offset alignment, `end` of 4. */
  begin: number;
  end: number;
  /** One after the other, since a binding covers `pageBytes` at most. */
  pages: { begin: number; end: number }[];
}

/** What the device says of bindings, in bytes. */
export interface BindingLimits {
  alignment: number;
  /** A multiple of `alignment`. */
  pageBytes: number;
}

/** How the tensors of a run lie in its bindings. */
export interface BindingPlan {
  bound: BoundStorage[];
  pageBytes: number;
  /** By tensor: index into `bound`, and first element from the begin of the bound stretch. */
  places: { name: string; tensor: TensorView; at: number; offset: number }[];
  /** Tensors that are left out: they read as 0. */
  absent: { name: string; type: 'f32' | 'i32' }[];
}

/** Words of a run's block of parameters. */
export const parameterWords = 64;

/** Views of the same storage share a binding: a buffer must not be bound twice if one of the two is written. */
export function planBindings({ tensors, writes }: Dispatch, { alignment, pageBytes }: BindingLimits): BindingPlan {
  const bound: BoundStorage[] = [];
  const entries: [string, TensorView][] = [];
  const absent: BindingPlan['absent'] = [];
  for (const [name, tensor] of Object.entries(tensors)) {
    if (typeof tensor === 'string') absent.push({ name, type: tensor === 'no i32' ? 'i32' : 'f32' });
    else entries.push([name, tensor]);
  }
  for (const [name, tensor] of entries) {
    const written = writes.includes(name);
    const atomic = written && bytesPerElement[tensor.dtype] === 2;
    const begin = Math.floor(tensor.byteOffset / alignment) * alignment;
    const end = Math.ceil((tensor.byteOffset + spannedBytes(tensor)) / 4) * 4;
    const known = bound.find(({ storage }) => storage === tensor.storage);
    if (known) {
      known.written ||= written;
      known.atomic ||= atomic;
      known.begin = Math.min(known.begin, begin);
      known.end = Math.max(known.end, end);
    } else {
      bound.push({ storage: tensor.storage, written, atomic, begin, end: Math.max(end, begin + 4), pages: [] });
    }
  }
  for (const { begin, end, pages } of bound) {
    for (let at = begin; at < end; at += pageBytes) pages.push({ begin: at, end: Math.min(at + pageBytes, end) });
  }
  const places = entries.map(([name, tensor]) => {
    const at = bound.findIndex(({ storage }) => storage === tensor.storage);
    return { name, tensor, at, offset: (tensor.byteOffset - bound[at]!.begin) / bytesPerElement[tensor.dtype] };
  });
  return { bound, pageBytes, places, absent };
}

/** Bytes from the first element of a view to its last. */
export function spannedBytes({ shape, rowStride, dtype }: TensorView): number {
  const columns = shape.at(-1) ?? 1;
  const rows = shape.slice(0, -1).reduce((product, length) => product * length, 1);
  return rows === 0 || columns === 0 ? 0 : ((rows - 1) * rowStride + columns) * bytesPerElement[dtype];
}

/** What a compiled shader depends on. */
export function shaderKey(dispatch: Dispatch, { bound, places, absent }: BindingPlan): string {
  const { sources, reductions = {}, constants = {}, parameters = {}, writes } = dispatch;
  const parts: unknown[] = [sources.join('+'), ...Object.keys(reductions), dispatch.entry ?? 'main'];
  for (const [name, value] of Object.entries(constants)) parts.push(`${name}=${value}`);
  parts.push(...Object.keys(parameters.u32 ?? {}), '/', ...Object.keys(parameters.f32 ?? {}));
  for (const { name, tensor, at } of places) {
    parts.push(`${name}:${tensor.dtype}:${at}:${writes.includes(name) ? 'w' : 'r'}`);
  }
  for (const { name, type } of absent) parts.push(`${name}:no ${type}`);
  for (const { written, atomic, pages } of bound) {
    parts.push(`${written ? 'w' : 'r'}${atomic ? 'a' : ''}${pages.length}`);
  }
  return parts.join(' ');
}

/**
 * The shader of a dispatch: constants, parameters as `p.name`, an accessor for each tensor (`load_name(i)`,
 * `store_name(i, x)`, `p.name_stride`), then the WGSL files.
 */
export function shaderCode(
  dispatch: Dispatch,
  { bound, pageBytes, places, absent }: BindingPlan,
  abilities: Abilities,
): string {
  const { sources, constants = {}, parameters = {}, writes } = dispatch;
  const width = subgroupWidth(dispatch, abilities);
  const f16 = abilities.f16 && places.some(({ tensor }) => tensor.dtype === 'f16');
  const lines = [...(width > 1 ? ['enable subgroups;'] : []), ...(f16 ? ['enable f16;'] : [])];
  for (const [name, value] of Object.entries(constants)) {
    lines.push(`const ${name} = ${typeof value === 'boolean' ? value : `${value}u`};`);
  }
  const fields = [
    ...places.flatMap(({ name }) => [`${name}_offset: u32`, `${name}_stride: u32`]),
    ...absent.map(({ name }) => `${name}_stride: u32`),
    ...Object.keys(parameters.u32 ?? {}).map((name) => `${name}: u32`),
    ...Object.keys(parameters.f32 ?? {}).map((name) => `${name}: f32`),
  ];
  if (fields.length === 0) fields.push('unused: u32');
  lines.push(`struct Parameters { ${fields.join(', ')} }`, '@group(0) @binding(0) var<uniform> p: Parameters;');
  let binding = 1;
  bound.forEach((storage, i) => {
    lines.push(...storageCode(storage, i, binding, pageBytes / 4));
    binding += storage.pages.length;
  });
  if (reportsFaults(dispatch)) lines.push(...faultCode(binding));
  lines.push(wgslSources.storage!);
  if (f16) lines.push(wgslSources.f16_native!);
  for (const { name, tensor, at } of places) {
    const conversion = f16 && tensor.dtype === 'f16' ? 'native_f16' : tensor.dtype;
    lines.push(...accessors(name, tensor, conversion, at, writes));
  }
  if (dispatch.factors) {
    const short = places.every(({ name, tensor }) => tensor.dtype === 'f16' || !dispatch.factors!.includes(name));
    lines.push(`alias Factor = ${f16 && short ? 'f16' : 'f32'};`);
  }
  for (const { name, type } of absent) {
    lines.push(`fn load_${name}(i: u32) -> ${type} { return ${type}(0); }`);
    if (writes.includes(name)) lines.push(`fn store_${name}(i: u32, x: ${type}) {}`);
  }
  if (dispatch.reductions) lines.push(...reductionCode(dispatch.reductions, width));
  for (const source of sources) {
    const text = wgslSources[source];
    if (text === undefined) throw new Error(`kernels/wgsl/${source}.wgsl does not exist`);
    lines.push(text);
  }
  return lines.join('\n');
}

/** Threads that are sure to share a subgroup: 1 where subgroups are not used, or a workgroup might not fill them. */
function subgroupWidth({ reductions, constants }: Dispatch, { subgroups }: Abilities): number {
  const threads = Number(constants?.THREADS);
  return reductions && subgroups && threads % subgroups.most === 0 ? subgroups.least : 1;
}

function reductionCode(reductions: NonNullable<Dispatch['reductions']>, width: number): string[] {
  const lines = [
    wgslSources[width > 1 ? 'subgroups' : 'no_subgroups']!,
    wgslSources.joins!,
    `const WIDTH = ${width}u;`,
  ];
  for (const [name, type] of Object.entries(reductions)) {
    const shuffled = width > 1 ? 'subgroupShuffleXor(x, step)' : 'x';
    lines.push(`fn shuffle_${name}(x: ${type}, step: u32) -> ${type} { return ${shuffled}; }`);
    lines.push(wgslSources.reduce!.replaceAll('NAME', name).replaceAll('VALUE', type));
  }
  return lines;
}

/** Whether a shader can call `fail`. */
export function reportsFaults({ parameters }: Dispatch): boolean {
  return parameters?.u32?.faultSlot !== undefined;
}

function faultCode(binding: number): string[] {
  return [
    `@group(0) @binding(${binding}) var<storage, read_write> faults: array<vec4i>;`,
    'fn fail(code: i32, index: u32, values: vec4i) {',
    '  faults[2u * p.faultSlot] = vec4i(code, i32(index), 0, 0);',
    '  faults[2u * p.faultSlot + 1u] = values;',
    '}',
  ];
}

/** The bindings of a storage, and what is done to one of its words wherever it lies: `word_0(at)`, `set_word_0(at, x)`. */
function storageCode(
  { written, atomic, pages }: BoundStorage,
  number: number,
  firstBinding: number,
  pageWords: number,
): string[] {
  const access = written ? 'read_write' : 'read';
  const element = atomic ? 'atomic<u32>' : 'u32';
  const names = pages.map((_, page) => `words_${number}${pages.length > 1 ? `_${page}` : ''}`);
  const lines = names.map(
    (name, page) => `@group(0) @binding(${firstBinding + page}) var<storage, ${access}> ${name}: array<${element}>;`,
  );
  /** A function of the word at `at` that does the same in every page. */
  const define = (header: string, body: (word: string) => string) => {
    if (pages.length === 1) {
      lines.push(`fn ${header} { ${body(`${names[0]}[at]`)} }`);
      return;
    }
    lines.push(`fn ${header} {`, `  switch (at / ${pageWords}u) {`);
    names.forEach((name, page) => {
      const which = page === pages.length - 1 ? 'default' : `case ${page}u`;
      lines.push(`    ${which}: { ${body(`${name}[at - ${page * pageWords}u]`)} }`);
    });
    lines.push('  }', '}');
  };
  define(`word_${number}(at: u32) -> u32`, (word) => `return ${atomic ? `atomicLoad(&${word})` : word};`);
  if (!written) return lines;
  define(`set_word_${number}(at: u32, x: u32)`, (word) => (atomic ? `atomicStore(&${word}, x);` : `${word} = x;`));
  if (!atomic) return lines;
  define(
    `set_half_${number}(at: u32, shift: u32, x: u32)`,
    (word) => `atomicAnd(&${word}, ~(0xffffu << shift)); atomicOr(&${word}, x << shift);`,
  );
  return lines;
}

function accessors(
  name: string,
  { dtype }: TensorView,
  conversion: string,
  at: number,
  writes: readonly string[],
): string[] {
  const wide = bytesPerElement[dtype] === 4;
  const type = dtype === 'i32' ? 'i32' : 'f32';
  const lines = wide
    ? [`fn load_${name}(i: u32) -> ${type} { return bitcast<${type}>(word_${at}(i + p.${name}_offset)); }`]
    : [
        `fn load_${name}(i: u32) -> f32 {`,
        `  let place = i + p.${name}_offset;`,
        `  return ${conversion}_value((word_${at}(place >> 1u) >> ((place & 1u) * 16u)) & 0xffffu);`,
        '}',
      ];
  if (!writes.includes(name)) return lines;
  if (wide) {
    lines.push(`fn store_${name}(i: u32, x: ${type}) { set_word_${at}(i + p.${name}_offset, bitcast<u32>(x)); }`);
  } else {
    lines.push(
      `fn store_${name}(i: u32, x: f32) {`,
      `  let place = i + p.${name}_offset;`,
      `  set_half_${at}(place >> 1u, (place & 1u) * 16u, ${conversion}_bits(x));`,
      '}',
    );
  }
  return lines;
}
