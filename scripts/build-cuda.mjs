// Builds libgrpo_cuda.so with nvcc into build-cuda/, where the addon looks for it. Needs the CUDA toolkit (12.8 or
// later for all architectures) and no GPU.
//
//   npm run build:cuda                    for sm_90, or the architectures in GRPO_CUDA_ARCHITECTURES ("80 90")
//   npm run build:release                 for all that the project supports, and PTX for later ones
//
// Warnings are errors. What each kernel needs of a multiprocessor is written to build-cuda/resources.txt; a kernel that
// takes more than 128 registers a thread or spills more than 32 bytes of them to memory (those that are named below: more),
// ends the build.
import { copyFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { buildLibrary } from './compile.mjs';
import { fail, filesUnder, hasCommand, root } from './lib.mjs';

const released = ['80', '86', '89', '90', '100', '120'];
const mostRegisters = 128;
// On tensor cores sums stay in registers, 32 rows a warp: 128 of them a thread for heads of 128, and for the gradients of keys
// and values. 255 registers leave room for two blocks of 128 threads on a multiprocessor.
const raisedRegisters = { attention_tiles_kernel: 255, grad_queries_tiles_kernel: 255, grad_keys_tiles_kernel: 255 };
const mostSpilled = 32; // bytes stored and loaded; ptxas spills a word or two where it likes more blocks better
// The gradient of bf16 logits in float32 keeps within 80 registers, which leave room for three blocks, on sm_120 alone by
// spilling. Rows of the policy loss spill on sm_90, where clusters take them but for those that do not fit.
const raisedSpills = { gradient_kernel: 40, policy_row_kernel: 56 };
const mostShared = 2048; // kSharedVariables of kernels/cuda/launch.h

const compiler = process.env.NVCC || 'nvcc';
if (!hasCommand(compiler)) {
  fail(`${compiler} was not found. Install the CUDA toolkit, or set NVCC to the path of its compiler.`);
}
const release = process.argv.includes('--release');
const chosen = release ? released : (process.env.GRPO_CUDA_ARCHITECTURES || '90').split(/[\s,;]+/).filter(Boolean);
const unknown = chosen.find((name) => !released.includes(name));
if (unknown) fail(`GRPO_CUDA_ARCHITECTURES: expected some of ${released.join(', ')} but received ${unknown}`);

const targets = chosen.map((name) => `-gencode=arch=compute_${name},code=sm_${name}`);
if (release) targets.push('-gencode=arch=compute_120,code=compute_120');
const folder = join(root, 'build-cuda', chosen.join('-'));
const host = '-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Werror';
const warnings = ['-Xptxas=-v', '-Werror=all-warnings', `-Xcompiler=${host}`];
const report = await buildLibrary({
  compiler,
  // A product and a sum are fused where the source says fmaf and nowhere else: a formula then has the same bits in every
  // kernel that it is part of, and its tests without a GPU compute what runs.
  flags: ['-std=c++20', '-O3', '-fmad=false', '-lineinfo', ...warnings, ...targets],
  linkFlags: ['-cudart', 'static', '-ldl', '-Xlinker=--exclude-libs,ALL', ...targets],
  folder,
  sources: [...filesUnder(join(root, 'kernels/cuda'), ['.cu']), join(root, 'kernels/common/error_record.cc')],
  headers: [...filesUnder(join(root, 'kernels'), ['.h']), fileURLToPath(import.meta.url)],
  library: join(folder, 'libgrpo_cuda.so'),
});
checkResources();
// Whatever was built last is what the addon finds, also when nothing had to be compiled for it.
copyFileSync(join(folder, 'libgrpo_cuda.so'), join(root, 'build-cuda/libgrpo_cuda.so'));

/** Reads what ptxas reported. */
function checkResources() {
  const kernels = [];
  let current;
  for (const line of report.split('\n')) {
    const entry = /Compiling entry function '(\S+)' for '(\S+)'/.exec(line);
    if (entry) {
      current = { name: entry[1], target: entry[2], spills: 0, registers: 0, shared: 0 };
      kernels.push(current);
    }
    const spills = /(\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line);
    if (spills && current) current.spills = Number(spills[1]) + Number(spills[2]);
    const registers = /Used (\d+) registers/.exec(line);
    if (registers && current) current.registers = Number(registers[1]);
    const shared = /(\d+) bytes smem/.exec(line);
    if (shared && current) current.shared = Number(shared[1]);
  }
  const lines = kernels.map(
    ({ name, target, registers, spills, shared }) =>
      `${target} ${registers} registers, ${spills} bytes spilled, ${shared} bytes of shared variables: ${name}`,
  );
  const path = join(root, 'build-cuda/resources.txt');
  writeFileSync(path, `${lines.join('\n')}\n`);
  const most = (name, byName, otherwise) =>
    byName[Object.keys(byName).find((kernel) => name.includes(kernel))] ?? otherwise;
  const over = kernels.filter(
    ({ name, registers, spills, shared }) =>
      spills > most(name, raisedSpills, mostSpilled) ||
      registers > most(name, raisedRegisters, mostRegisters) ||
      shared > mostShared,
  );
  if (over.length > 0) {
    fail(
      `Kernels beyond ${mostRegisters} registers, ${mostSpilled} bytes spilled or ${mostShared} of shared variables, or what their name allows:\n${over.map(({ name }) => name).join('\n')}\nSee ${path}.`,
    );
  }
  console.log(
    `build-cuda/libgrpo_cuda.so for sm_${chosen.join(', sm_')}: ${kernels.length} kernels within ${mostRegisters} registers and ${mostSpilled} bytes spilled, or what their name allows.`,
  );
}
