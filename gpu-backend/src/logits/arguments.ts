import { Command, CommanderError } from 'commander'
import { deviceNames, isDeviceName } from '../device/open.ts'
import type { DeviceName } from '../device/device.ts'
import type { Quantisation } from '../model/model.ts'

export interface LogitsArguments {
  readonly checkpoint: string
  readonly tokens: Int32Array
  readonly device: DeviceName | 'auto'
  readonly quantisation: Quantisation
  /** Tokens fed as the first step; the rest follow one by one. */
  readonly prefill: number
  readonly norms: boolean
}

/** An argument that is wrong; the message names the option. */
export class UsageError extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'UsageError'
  }
}

/** What to do: compute, or print this text and end well (`--help`). */
export type Parsed =
  | { readonly kind: 'run'; readonly arguments: LogitsArguments }
  | { readonly kind: 'help'; readonly text: string }

/** Checks a command line (without node and script). Throws `UsageError`. */
export function parseArguments(argv: readonly string[]): Parsed {
  let text = ''
  const command = describeCommand((written) => {
    text += written
  })
  try {
    command.parse([...argv], { from: 'user' })
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error
    if (error.exitCode === 0) return { kind: 'help', text }
    throw new UsageError(error.message.replace(/^error: /, ''))
  }
  return { kind: 'run', arguments: checkOptions(command.opts<Options>()) }
}

/** As the parser leaves them: required and defaulted ones are there, nothing is checked yet. */
interface Options {
  readonly checkpoint: string
  readonly tokens: string
  readonly device: string
  readonly quantisation: string
  readonly prefill?: string
  readonly norms: boolean
}

function describeCommand(write: (text: string) => void): Command {
  return new Command('logits')
    .description('Feeds tokens to a model and prints the logits behind each as one JSON object.')
    .requiredOption(
      '--checkpoint <place>',
      'folder or s3://bucket/prefix, published or as released',
    )
    .requiredOption('--tokens <ids>', 'token ids, separated by commas')
    .option('--device <name>', `auto, ${deviceNames.join(', ')}`, 'auto')
    .option('--quantisation <mode>', 'off, or on: round activations and caches', 'off')
    .option('--prefill <count>', 'tokens of the first step; the rest follow one by one')
    .option('--norms', 'also print the L2 norm of the residual streams behind each layer', false)
    .allowExcessArguments(false)
    .exitOverride()
    .configureOutput({ writeOut: write, writeErr: () => undefined })
}

function checkOptions(options: Options): LogitsArguments {
  const { checkpoint, device, quantisation, norms } = options
  const tokens = parseTokens(options.tokens)
  if (device !== 'auto' && !isDeviceName(device)) {
    throw new UsageError(`--device ${device} is none of auto, ${deviceNames.join(', ')}`)
  }
  if (quantisation !== 'on' && quantisation !== 'off') {
    throw new UsageError(`--quantisation ${quantisation} is neither off nor on`)
  }
  if (checkpoint === '') throw new UsageError('--checkpoint is empty')
  const prefill = parsePrefill(options.prefill, tokens.length)
  return { checkpoint, tokens, device, quantisation, prefill, norms }
}

function parseTokens(text: string): Int32Array {
  const parts = text.split(',').map((part) => part.trim())
  for (const part of parts) {
    if (/^\d{1,9}$/.test(part)) continue
    throw new UsageError(`--tokens has '${part}', which is not a token id; give ids like 5,15,39`)
  }
  return Int32Array.from(parts, Number)
}

function parsePrefill(text: string | undefined, tokenCount: number): number {
  if (text === undefined) return tokenCount
  const count = Number(text)
  if (/^\d{1,9}$/.test(text) && count >= 1 && count <= tokenCount) return count
  throw new UsageError(`--prefill ${text} is not a count from 1 to the ${tokenCount} tokens given`)
}
