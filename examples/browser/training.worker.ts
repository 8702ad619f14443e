/** Trains in a Web Worker, so that the page stays free for its reader; an update begins when the page asks for it. */
import { BackendUnavailableError, CausalLM, GRPOTrainer, openWebGpuDevice } from 'grpo-native/browser';
import type { WorkerMessage } from './messages.js';
import { completionLength, createTokenizer, dataset, ruleReward, varietyReward } from './task.js';

const say = (message: WorkerMessage) => postMessage(message);

function fail(error: unknown): void {
  const message = error instanceof Error ? error.message : String(error);
  say({ type: 'failed', message, unavailable: error instanceof BackendUnavailableError });
}

async function prepare(): Promise<GRPOTrainer> {
  // An adapter that computes on the processor is slow, and enough for a model of this size.
  const device = await openWebGpuDevice({ software: true });
  const shape = { hiddenSize: 16, intermediateSize: 32, numHiddenLayers: 1, numAttentionHeads: 2 };
  const policy = CausalLM.create({ ...shape, tieWordEmbeddings: true }, createTokenizer(), { device, seed: 1 });
  const trainer = await GRPOTrainer.create({
    policy,
    dataset,
    rewards: [ruleReward, varietyReward],
    numGenerations: 8,
    perDeviceTrainBatchSize: 24,
    maxCompletionLength: completionLength,
    learningRate: 1e-2,
    lrSchedulerType: 'constant',
    beta: 0.02,
    maxSteps: 300,
    seed: 3,
  });
  say({ type: 'ready', adapter: device.name, weights: policy.parameters.count });
  return trainer;
}

try {
  const trainer = await prepare();
  const reports = trainer[Symbol.asyncIterator]();
  addEventListener('message', async () => {
    try {
      const { value, done } = await reports.next();
      if (done) return say({ type: 'finished' });
      const { step, metrics, completions } = value;
      say({ type: 'update', report: { step, metrics, completions } });
    } catch (error) {
      fail(error);
    }
  });
} catch (error) {
  fail(error);
}
