// Starts rank.mjs as `grpo launch` starts the command line.
import { fileURLToPath } from 'node:url';
import { launch } from '../../../dist/distributed/launch.js';

const { what, ...options } = JSON.parse(process.argv[2]);
const program = fileURLToPath(new URL('rank.mjs', import.meta.url));
process.exitCode = await launch({ command: [program, JSON.stringify(what)], ...options });
