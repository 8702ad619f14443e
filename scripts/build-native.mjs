// Builds the addon with node-gyp into build/, only what has changed.
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { fail, hasCommand, runTool } from './lib.mjs';

checkTools();
const args = ['configure', 'build', '-j', 'max', '--loglevel=error', ...headersBesideNode()];
runTool('node-gyp/bin/node-gyp.js', args, 'The compiler output above says why.');

/** node-gyp's own messages about missing tools are long; these name the one command that helps. */
function checkTools() {
  if (process.platform === 'win32') {
    fail('The addon does not build on Windows: it needs GCC or Clang, and dlopen. Use the Linux of WSL 2.');
  }
  const install =
    process.platform === 'darwin'
      ? 'xcode-select --install'
      : 'sudo apt-get install -y python3 make g++   (Debian, Ubuntu; other systems: the packages of the same names)';
  const python = process.env.npm_config_python ?? process.env.PYTHON;
  if (!(python && hasCommand(python)) && !hasCommand('python3') && !hasCommand('python')) {
    fail(`Building the addon needs Python 3 (node-gyp uses it), and none was found. Install it:\n  ${install}`);
  }
  const compilers = [process.env.CXX, 'c++', 'g++', 'clang++'].filter(Boolean);
  if (!compilers.some((compiler) => hasCommand(compiler))) {
    fail(
      `Building the addon needs a C++20 compiler; none of ${compilers.join(', ')} was found. Install one:\n  ${install}`,
    );
  }
  if (!hasCommand('make')) fail(`Building the addon needs make. Install it:\n  ${install}`);
}

/** Node's headers often lie beside it; node-gyp would download them again. */
function headersBesideNode() {
  if (process.env.npm_config_nodedir) return [];
  const prefix = dirname(dirname(process.execPath));
  return existsSync(join(prefix, 'include/node/node_api.h')) ? [`--nodedir=${prefix}`] : [];
}
