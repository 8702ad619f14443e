#!/usr/bin/env node
import '../platform/node.js';
import { runProgram } from './program.js';

process.exitCode = await runProgram(process.argv.slice(2));
