import { type Bench, median, round3, timed } from './bench.ts'
import { machineConditions, openAddon } from './machine.ts'
import { closeToys, compareToys, openToys, type ToyRun, toyTokens } from './toy.ts'

const promptTokens = 64
const decodedTokens = 32
const sequenceCounts = [1, 8, 32] as const
/** Of every count of sequences, so that a figure of one is no shorter a glimpse of the machine than of 32. */
const tokensMeasured = 32 * decodedTokens
const rounds = 9
/** Code is compiled and memory touched in a round of its own. */
const unmeasuredRounds = 1

/** `npm run bench -- decode`: the toy, a token a sequence and step, on the CPU and the reference. */
export const decodeBench: Bench = async (print) => {
  const addon = await openAddon(print)
  const machine = await machineConditions(addon)
  const conditions = { ...machine, model: 'toy', promptTokens, decodedTokens, rounds }
  for (const [key, value] of Object.entries(conditions)) print(`${key}: ${value}`)
  const ratios: Record<string, number> = {}
  const runs = await openToys(addon)
  const rates = new Map(sequenceCounts.map((count) => [count, runs.map((): number[] => [])]))
  // Every count takes its turn in every round, so that a machine whose speed drifts slows all of them.
  for (let round = -unmeasuredRounds; round < rounds; round++) {
    for (const [count, ofRuns] of rates) {
      for (const [at, run] of runs.entries()) {
        const rate = decodeRate(run, count, tokensMeasured / (count * decodedTokens))
        if (round >= 0) ofRuns[at]?.push(rate)
      }
    }
  }
  const alone = rates.get(1) ?? []
  for (const [count, ofRuns] of rates) {
    const what = count === 1 ? '1 sequence' : `${count} sequences`
    for (const [at, run] of runs.entries()) run.rates.splice(0, Infinity, ...(ofRuns[at] ?? []))
    Object.assign(ratios, compareToys(runs, what, print))
    if (count === 1) continue
    for (const [at, { name }] of runs.entries()) {
      const [many, one] = [ofRuns[at] ?? [], alone[at] ?? []]
      const best = Math.max(...many) / Math.max(...one)
      const middle = median(many.map((rate, round) => rate / (one[round] ?? Number.NaN)))
      ratios[`${what}, ${name}, of 1 sequence`] = round3(best)
      ratios[`${what}, ${name}, of 1 sequence, median`] = round3(middle)
      print(
        `${what}, ${name.padEnd(20)} ${best.toFixed(2)} of 1 sequence's tokens/s, ` +
          `median of the rounds ${middle.toFixed(2)}`,
      )
    }
  }
  closeToys(runs)
  return { conditions, ratios }
}

/** Tokens a second over all sequences, the prompt not counted. Every step reads its logits. */
function decodeRate({ model }: ToyRun, count: number, times: number): number {
  const tokens = toyTokens(promptTokens + decodedTokens, model.shape.vocabSize)
  const prompt = tokens.subarray(0, promptTokens)
  let seconds = 0
  for (let time = 0; time < times; time++) {
    const sequences = Array.from({ length: count }, () =>
      model.createSequence({ maxTokens: tokens.length }),
    )
    model.forward(sequences.map((sequence) => ({ sequence, tokens: prompt, logits: 'last' })))
    seconds += timed(() => {
      for (let at = promptTokens; at < tokens.length; at++) {
        const next = tokens.subarray(at, at + 1)
        model.forward(sequences.map((sequence) => ({ sequence, tokens: next, logits: 'last' })))
      }
    })
    for (const sequence of sequences) model.release(sequence)
  }
  return (times * count * decodedTokens) / seconds
}
