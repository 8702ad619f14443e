// Trains a small language model, made on the spot, to answer with even digits.
import { CausalLM, GRPOTrainer, openDevice, type RewardFunction, Tokenizer } from 'grpo-native';

const device = await openDevice('auto');
const shape = { hiddenSize: 32, intermediateSize: 64, numHiddenLayers: 2, numAttentionHeads: 4 };
const policy = CausalLM.create(shape, Tokenizer.fromCharacters('0123456789='), { device, seed: 1 });
const dataset = Array.from({ length: 100 }, (_, i) => ({ prompt: `${i}=` }));
const even: RewardFunction = (batch) => batch.map((row) => row.completion.replace(/[^02468]/g, '').length / 8);
const options = { maxCompletionLength: 8, perDeviceTrainBatchSize: 32, learningRate: 1e-2, maxSteps: 30 };
const trainer = await GRPOTrainer.create({ policy, dataset, rewards: [even], ...options });
for await (const { step, metrics } of trainer) console.log(step, metrics.reward);
console.log(await policy.generate(['42='], { maxNewTokens: 8, temperature: 0 }));
