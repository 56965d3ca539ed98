import { Command, CommanderError } from 'commander'
import { CheckpointError } from '../checkpoint-error.ts'
import { StoreError } from '../store/store.ts'
import { Output, type Terminal } from './output.ts'
import { type PlanArguments, runPlan } from './plan-verb.ts'
import { runInspect, runPublish, runToy, runVerify, UsageError, type Run } from './verbs.ts'

/** 0: done. 1: the checkpoint or the store is at fault. 2: the command line is. */
export type ExitCode = 0 | 1 | 2

/** Runs one command line (without the program's name) to its end. */
export async function runWeights(args: readonly string[], terminal: Terminal): Promise<ExitCode> {
  const outcome = { sound: true, json: false }
  const program = buildProgram(terminal, outcome)
  try {
    await program.parseAsync(args, { from: 'user' })
    return outcome.sound ? 0 : 1
  } catch (error) {
    // Commander has printed its sentence, or the help that was asked for.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
    return reportFailure(error, terminal, outcome.json)
  }
}

function buildProgram(terminal: Terminal, outcome: { sound: boolean; json: boolean }): Command {
  const program = new Command('npm run weights --')
  program
    .description('Makes, publishes and checks checkpoints in S3-compatible stores or directories.')
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void terminal.stdout.write(text),
      writeErr: (text) => void terminal.stderr.write(text),
    })
  const verb = (usage: string, description: string): Command =>
    program
      .command(usage)
      .description(description)
      .option('--json', 'print one JSON object for machines')
  const begin = (options: { readonly json?: boolean }): Run => {
    outcome.json = options.json === true
    return { terminal, output: new Output(terminal, outcome.json) }
  }
  verb('toy', 'write the tiny test checkpoint, as if released')
    .requiredOption('--out <url>', 'directory or s3://bucket/prefix')
    .action(async ({ out, ...options }: { out: string; json?: boolean }) => {
      outcome.sound = await runToy(begin(options), out)
    })
  verb('publish', 'copy a released checkpoint to where backends load it from')
    .requiredOption('--from <url>', 'the release: directory or s3://bucket/prefix')
    .requiredOption('--to <url>', 'the target; may be the same place')
    .option('--model-id <id>', 'name to serve it under; known models have one')
    .action(async (options: { from: string; to: string; modelId?: string; json?: boolean }) => {
      outcome.sound = await runPublish(begin(options), options)
    })
  verb('inspect <url>', 'say what is there, from manifest or headers').action(
    async (url: string, options: { json?: boolean }) => {
      outcome.sound = await runInspect(begin(options), url)
    },
  )
  verb('verify <url>', 'read everything and compare it with the manifest').action(
    async (url: string, options: { json?: boolean }) => {
      outcome.sound = await runVerify(begin(options), url)
    },
  )
  verb('plan', 'say what of a model fits on a machine, and how many sequences')
    .requiredOption('--gpus <set>', 'like 1xH200 or 8xB200')
    .requiredOption('--model <name>', 'v4-flash or v4-pro')
    .option('--context <tokens>', 'what a sequence is to reach', '131072')
    .option('--step-rows <rows>', 'of the largest step', '4096')
    .action(async (options: PlanArguments & { json?: boolean }) => {
      outcome.sound = await runPlan(begin(options), options)
    })
  return program
}

function reportFailure(error: unknown, terminal: Terminal, json: boolean): ExitCode {
  if (error instanceof UsageError) {
    terminal.stderr.write(`error: ${error.message}\n`)
    return 2
  }
  const known = error instanceof CheckpointError || error instanceof StoreError
  if (!known) throw error
  const subject = error instanceof CheckpointError ? error.subject : error.key
  const { code, message } = error
  terminal.stderr.write(`error: ${message} [${code}]\n`)
  if (json) terminal.stdout.write(`${JSON.stringify({ error: { code, subject, message } })}\n`)
  return 1
}
