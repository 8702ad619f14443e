// Prints "<n> passed, <n> failed" from vitest's JSON report: the line that ends .ci/run.
import { readFileSync } from 'node:fs';
import process from 'node:process';
import { fail } from './lib.mjs';

const text = readFileSync(process.argv[2], 'utf8');
if (!text) fail('0 passed, 1 failed (the tests did not run)');
const { numPassedTests, numFailedTests, numFailedTestSuites, success } = JSON.parse(text);
// A file that cannot be loaded fails without a failing test.
const failed = numFailedTests || (success ? 0 : numFailedTestSuites || 1);
console.log(`${numPassedTests} passed, ${failed} failed`);
