import { type Bench, timed } from './bench.ts'
import { machineConditions, openAddon } from './machine.ts'
import { closeToys, compareToys, openToys, type ToyRun, toyTokens } from './toy.ts'

const promptTokens = 512
const rounds = 5

/** `npm run bench -- prefill`: a prompt of the toy's in one step, on the CPU and the reference. */
export const prefillBench: Bench = async (print) => {
  const addon = await openAddon(print)
  const machine = await machineConditions(addon)
  const conditions = { ...machine, model: 'toy', promptTokens, rounds }
  for (const [key, value] of Object.entries(conditions)) print(`${key}: ${value}`)
  const runs = await openToys(addon)
  for (const run of runs) prefillRate(run)
  for (let round = 0; round < rounds; round++) {
    for (const run of runs) run.rates.push(prefillRate(run))
  }
  const ratios = compareToys(runs, `${promptTokens} tokens`, print)
  closeToys(runs)
  return { conditions, ratios }
}

function prefillRate({ model }: ToyRun): number {
  const tokens = toyTokens(promptTokens, model.shape.vocabSize)
  const sequence = model.createSequence({ maxTokens: promptTokens })
  const seconds = timed(() => model.forward([{ sequence, tokens, logits: 'last' }]))
  model.release(sequence)
  return promptTokens / seconds
}
