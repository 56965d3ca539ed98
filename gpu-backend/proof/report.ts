import { productGate } from './against-torch.ts'
import {
  type CheckerResult,
  type Found,
  type LayerTime,
  type Missing,
  type ProductTime,
  type StageName,
  stageNames,
  type StageResults,
} from './stages.ts'

/** The floor's rates were measured, and steps may keep some of what they hand on in the cache. */
const believedOfFloor = 1.2

/** All that one run showed. */
export interface Proof {
  readonly date: string
  readonly card: string
  readonly architecture: number
  /** CUDA version of the driver: 13000 is 13.0. */
  readonly driver: number
  /** Before anything was run; null where the driver's own tool is not there. */
  readonly clocks: string | null
  /** Kernels ran on the host: nothing here says anything of a card, or of speed. */
  readonly fake: boolean
  /** Small cases alone. */
  readonly toy: boolean
  /** Hash of the kernels as they were loaded. */
  readonly kernels: string
  readonly seed: number
  readonly stages: readonly StageName[]
  readonly found: readonly Found[]
  /** What was asked for and has no result. */
  readonly missing: readonly Missing[]
  readonly seconds: number
}

/** A stage's results, in the order they came. */
export function resultsOf<Stage extends StageName>(
  { found }: Pick<Proof, 'found'>,
  stage: Stage,
): readonly StageResults[Stage][] {
  return found.flatMap((one) => (isOf(one, stage) ? [one.result] : []))
}

function isOf<Stage extends StageName>(found: Found, stage: Stage): found is Found<Stage> {
  return found.stage === stage
}

/**
 * Whether all that was asked for was run, and is right. Gates of speed do not count: they are said,
 * not hidden. Nor does a tool that the machine does not have.
 */
export function isSound(proof: Proof): boolean {
  return (
    proof.missing.length === 0 &&
    resultsOf(proof, 'ops').every((op) => op.failed + op.refused + op.left === 0) &&
    resultsOf(proof, 'models').every((claims) => claims.every(({ held }) => held)) &&
    resultsOf(proof, 'checkers').every(({ clean }) => clean !== false)
  )
}

/** The proof as one page of Markdown. */
export function describeProof(proof: Proof): string {
  const { card, fake, date, kernels, seed, seconds } = proof
  const title = fake ? `# Fake driver: no times (${date})` : `# ${card} (${date})`
  const toy = proof.toy ? ' Small cases alone.' : ''
  const sections = [
    title,
    `${where(proof)} Kernels ${kernels}, seed ${seed}, ${seconds.toFixed(0)} s.${toy}`,
    `**${verdict(proof)}**`,
    missingTable(proof),
    opTable(proof),
    claimTable(proof),
    layerTable(proof),
    checkerTable(proof),
    torchTable(proof),
  ]
  return `${sections.filter((section) => section !== '').join('\n\n')}\n`
}

function where({ card, architecture, driver, clocks, fake }: Proof): string {
  if (fake) {
    return 'Kernels ran on the host, under the driver’s calls but without a GPU. Nothing here is about speed.'
  }
  const state = clocks === null ? 'nvidia-smi is not on this machine' : clocks
  return `${card}, sm_${architecture}, driver for CUDA ${driver / 1000} (${state}).`
}

function verdict(proof: Proof): string {
  const notAsked = stageNames.filter((stage) => !proof.stages.includes(stage))
  const unasked = notAsked.length === 0 ? '' : ` Not asked for: ${notAsked.join(', ')}.`
  if (isSound(proof)) return `All that was asked for was run, and nothing is wrong.${unasked}`
  const { length } = proof.missing
  const without = length === 0 ? '' : ` ${length} parts have no result.`
  return `Not proved: see below.${without}${unasked}`
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  if (rows.length === 0) return ''
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}

function missingTable({ missing }: Proof): string {
  return table(
    ['no result', 'of', 'why'],
    missing.map(({ stage, item, lost, why }) => [item, stage, `${lost ? 'LOST: ' : ''}${why}`]),
  )
}

function opTable(proof: Proof): string {
  const rows = resultsOf(proof, 'ops').map((result) => {
    const { op, passed, failed, refused, left, boundUsed, failures } = result
    const counts = [passed, failed, refused, left].map(String)
    return [op, ...counts, boundUsed.toFixed(2), failures.join('; ')]
  })
  return table(['op', 'passed', 'failed', 'refused', 'not run', 'of its bound', 'failures'], rows)
}

function claimTable(proof: Proof): string {
  const rows = resultsOf(proof, 'models')
    .flat()
    .map(({ claim, held, seen }) => [claim, held ? 'yes' : 'NO', seen])
  return table(['claim', 'held', 'seen'], rows)
}

function layerTable(proof: Proof): string {
  const kinds = resultsOf(proof, 'times')
  const rows = kinds
    .flatMap(({ times }) => times)
    .map((time) => [
      time.kind,
      time.step,
      time.milliseconds.toFixed(3),
      time.bestMilliseconds.toFixed(3),
      String(time.runs),
      time.floorMilliseconds.toFixed(3),
      time.ofFloor.toFixed(2),
      `${time.gate.toFixed(2)} ${gateVerdict(time)}`,
    ])
  const head = ['layer', 'step', 'median ms', 'best ms', 'runs', 'floor ms', 'of floor', 'gate']
  // `wgmma` on a card that has none: nothing was held.
  const timed = kinds.filter(({ times }) => times.length > 0)
  const notes = timed.map(({ times, clocks, gigabytes }) => {
    const held = `Layer ${times[0]?.kind ?? '?'}: ${gigabytes.toFixed(1)} GB held`
    return clocks === null ? `${held}.` : `${held}; right after: ${clocks}.`
  })
  return [table(head, rows), ...notes].filter((part) => part !== '').join('\n\n')
}

/** What is faster than the floor on the card that the floor is of was not run. */
function gateVerdict({ met, ofFloor }: LayerTime): string {
  if (ofFloor > believedOfFloor) return 'NOT BELIEVED on an H200'
  return met ? 'met' : 'MISSED'
}

function checkerTable(proof: Proof): string {
  const said = ({ clean }: CheckerResult): string =>
    clean === null ? 'not run' : clean ? 'clean' : 'ERRORS'
  const rows = resultsOf(proof, 'checkers').map((result) => {
    const { tool, cases, left, summary } = result
    return [tool, said(result), String(cases), String(left), summary]
  })
  return table(['checker', 'verdict', 'cases', 'not run', 'summary'], rows)
}

function torchTable(proof: Proof): string {
  const [torch] = resultsOf(proof, 'torch')
  if (torch === undefined) return ''
  if ('reason' in torch) return `Torch, not compared with: ${torch.reason}.`
  const row = (time: ProductTime): readonly string[] => [
    `${time.rows} × ${time.inputs} → ${time.outputs}`,
    time.milliseconds.toFixed(3),
    time.torchMilliseconds.toFixed(3),
    `${time.ofTorch.toFixed(2)} ${time.ofTorch >= productGate ? 'met' : 'MISSED'}`,
  ]
  return table(
    ['bf16 product', 'median ms', `torch ${torch.version} ms`, `of torch, gate ${productGate}`],
    torch.products.map(row),
  )
}
