import type { ProductTime, TorchResult } from './against-torch.ts'
import { productGate } from './against-torch.ts'
import type { CheckerResult } from './checkers.ts'
import type { LayerTime } from './layer-times.ts'
import type { Claim } from './models.ts'
import type { OpResult } from './op-suite.ts'

/** All that one run showed; what was not run is null. */
export interface Proof {
  readonly date: string
  readonly card: string
  readonly architecture: number
  /** CUDA version of the driver: 13000 is 13.0. */
  readonly driver: number
  /** Kernels ran on the host: nothing here says anything of a card, or of speed. */
  readonly fake: boolean
  /** Hash of the kernels' sources. */
  readonly kernels: string
  readonly seed: number
  readonly ops: readonly OpResult[] | null
  readonly models: readonly Claim[] | null
  readonly checkers: readonly CheckerResult[] | null
  readonly layers: readonly LayerTime[] | null
  readonly torch: TorchResult | null
  readonly seconds: number
}

/** Whether everything that was run is right. Gates of speed do not count: they are said, not hidden. */
export function isSound({ ops, models, checkers }: Proof): boolean {
  return (
    (ops ?? []).every(({ failed, refused }) => failed === 0 && refused === 0) &&
    (models ?? []).every(({ held }) => held) &&
    (checkers ?? []).every(({ clean }) => clean !== false)
  )
}

/** The proof as one page of Markdown. */
export function describeProof(proof: Proof): string {
  const { card, architecture, driver, fake, date } = proof
  const title = fake ? `# Fake driver: no times (${date})` : `# ${card} (${date})`
  const where = fake
    ? 'Kernels ran on the host, under the driver’s calls but without a GPU. Nothing here is about speed.'
    : `${card}, sm_${architecture}, driver for CUDA ${driver / 1000}.`
  const sections = [
    title,
    `${where} Kernels ${proof.kernels}, seed ${proof.seed}, ${proof.seconds.toFixed(0)} s.`,
    opTable(proof.ops),
    claimTable(proof.models),
    checkerTable(proof.checkers),
    layerTable(proof),
    torchTable(proof),
  ]
  return `${sections.filter((section) => section !== '').join('\n\n')}\n`
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}

function opTable(ops: Proof['ops']): string {
  if (ops === null) return ''
  const rows = ops.map(({ op, passed, failed, refused, boundUsed, failures }) => [
    op,
    ...[passed, failed, refused].map(String),
    boundUsed.toFixed(2),
    failures.join('; '),
  ])
  return table(['op', 'passed', 'failed', 'refused', 'of its bound', 'failures'], rows)
}

function claimTable(models: Proof['models']): string {
  if (models === null) return ''
  const rows = models.map(({ claim, held, seen }) => [claim, held ? 'yes' : 'NO', seen])
  return table(['claim', 'held', 'seen'], rows)
}

function checkerTable(checkers: Proof['checkers']): string {
  if (checkers === null) return ''
  const verdict = ({ clean }: CheckerResult): string =>
    clean === null ? 'not run' : clean ? 'clean' : 'ERRORS'
  return table(
    ['checker', 'verdict', 'summary'],
    checkers.map((result) => [result.tool, verdict(result), result.summary]),
  )
}

function layerTable({ layers, fake }: Proof): string {
  if (layers === null) return fake ? 'Times: none, the driver is a fake one.' : ''
  const rows = layers.map((time) => [
    time.kind,
    time.step,
    time.milliseconds.toFixed(3),
    time.floorMilliseconds.toFixed(3),
    time.ofFloor.toFixed(2),
    `${time.gate.toFixed(2)} ${time.met ? 'met' : 'MISSED'}`,
  ])
  return table(['layer', 'step', 'ms', 'floor ms', 'of floor', 'gate'], rows)
}

function torchTable({ torch }: Proof): string {
  if (torch === null) return ''
  if ('reason' in torch) return `Torch: ${torch.reason}.`
  const row = (time: ProductTime): readonly string[] => [
    `${time.rows} × ${time.inputs} → ${time.outputs}`,
    time.milliseconds.toFixed(3),
    time.torchMilliseconds.toFixed(3),
    `${time.ofTorch.toFixed(2)} ${time.ofTorch >= productGate ? 'met' : 'MISSED'}`,
  ]
  return table(
    ['bf16 product', 'ms', `torch ${torch.version} ms`, `of torch, gate ${productGate}`],
    torch.products.map(row),
  )
}
