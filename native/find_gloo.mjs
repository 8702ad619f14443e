// Prints yes when the C++ compiler finds Gloo's headers and library (Debian: libgloo-dev), else no. Both build files run
// it: without Gloo the addon is built without the library for collectives on the CPU.
import { spawnSync } from 'node:child_process';
import process from 'node:process';

const program = '#include <gloo/transport/tcp/device.h>\nvoid* probe() { return new gloo::transport::tcp::attr; }\n';
const compiler = process.env.CXX || 'c++';
const args = ['-std=c++20', '-x', 'c++', '-', '-shared', '-fPIC', '-o', '/dev/null', '-lgloo'];
const { status } = spawnSync(compiler, args, { input: program, stdio: ['pipe', 'ignore', 'ignore'] });
console.log(process.platform === 'linux' && status === 0 ? 'yes' : 'no');
