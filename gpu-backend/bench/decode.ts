import { type Bench, round3, timed } from './bench.ts'
import { machineConditions, openAddon } from './machine.ts'
import { closeToys, compareToys, openToys, type ToyRun, toyTokens } from './toy.ts'

const promptTokens = 64
const decodedTokens = 32
const sequenceCounts = [1, 8, 32] as const
const rounds = 7

/** `npm run bench -- decode`: the toy, a token a sequence and step, on the CPU and the reference. */
export const decodeBench: Bench = async (print) => {
  const addon = await openAddon(print)
  const machine = await machineConditions(addon)
  const conditions = { ...machine, model: 'toy', promptTokens, decodedTokens, rounds }
  for (const [key, value] of Object.entries(conditions)) print(`${key}: ${value}`)
  const ratios: Record<string, number> = {}
  const alone = new Map<string, number>()
  for (const sequences of sequenceCounts) {
    const runs = await openToys(addon)
    // One round unmeasured: code is compiled and memory touched.
    for (const run of runs) decodeRate(run, sequences)
    for (let round = 0; round < rounds; round++) {
      for (const run of runs) run.rates.push(decodeRate(run, sequences))
    }
    const what = sequences === 1 ? '1 sequence' : `${sequences} sequences`
    Object.assign(ratios, compareToys(runs, what, print))
    for (const { name, rates } of runs) {
      const best = Math.max(...rates)
      const one = alone.get(name)
      if (one === undefined) {
        alone.set(name, best)
        continue
      }
      ratios[`${what}, ${name}, of 1 sequence`] = round3(best / one)
      print(`${what}, ${name.padEnd(20)} ${(best / one).toFixed(2)} of 1 sequence's tokens/s`)
    }
    closeToys(runs)
  }
  return { conditions, ratios }
}

/** Tokens a second over all sequences, the prompt not counted. Every step reads its logits. */
function decodeRate({ model }: ToyRun, count: number): number {
  const tokens = toyTokens(promptTokens + decodedTokens, model.shape.vocabSize)
  const sequences = Array.from({ length: count }, () =>
    model.createSequence({ maxTokens: tokens.length }),
  )
  const prompt = tokens.subarray(0, promptTokens)
  model.forward(sequences.map((sequence) => ({ sequence, tokens: prompt, logits: 'last' })))
  const seconds = timed(() => {
    for (let at = promptTokens; at < tokens.length; at++) {
      const next = tokens.subarray(at, at + 1)
      model.forward(sequences.map((sequence) => ({ sequence, tokens: next, logits: 'last' })))
    }
  })
  for (const sequence of sequences) model.release(sequence)
  return (count * decodedTokens) / seconds
}
