// What the tests import from vitest, in the bundle that runs without it: its own runner and matchers, which are libraries.
import { chai, JestAsymmetricMatchers, JestChaiExpect, JestExtend } from '@vitest/expect';

for (const matchers of [JestExtend, JestChaiExpect, JestAsymmetricMatchers]) chai.use(matchers);

export const { expect } = chai;
export { afterAll, afterEach, beforeAll, beforeEach, describe, it, test } from '@vitest/runner';
