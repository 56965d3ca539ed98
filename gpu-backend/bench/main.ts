import { parseArgs } from 'node:util'
import { describeChange, machineKind, readBaselines, writeBaseline } from './baseline.ts'
import type { Bench } from './bench.ts'
import { contextBench } from './context.ts'
import { decodeBench } from './decode.ts'
import { kernelsBench } from './kernels.ts'
import { layerBench } from './layer.ts'
import { prefillBench } from './prefill.ts'
import { samplingBench } from './sampling.ts'

/** What can be measured: `npm run bench -- NAME [--json] [--save]`. */
const benches: Readonly<Record<string, Bench>> = {
  kernels: kernelsBench,
  layer: layerBench,
  decode: decodeBench,
  prefill: prefillBench,
  context: contextBench,
  sampling: samplingBench,
  // They start the whole stack; the others should not wait for its modules.
  server: async (print) => (await import('../../test/bench/server.ts')).serverBench(print),
  serve: async (print) => (await import('../../test/bench/serve.ts')).serveBench(print),
  speculation: async (print) =>
    (await import('../../test/bench/speculation.ts')).speculationBench(print),
  edge: async (print) => (await import('../../test/bench/edge.ts')).edgeBench(print),
}

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    /** One object on stdout and nothing else. */
    json: { type: 'boolean', default: false },
    /** The result becomes this machine kind's baseline. */
    save: { type: 'boolean', default: false },
  },
})
const [name = ''] = positionals
const bench = benches[name]
if (bench === undefined || positionals.length !== 1) {
  console.error(`usage: npm run bench -- ${Object.keys(benches).join(' | ')} [--json] [--save]`)
  process.exitCode = 2
} else {
  const print = (line: string): void => {
    if (!values.json) console.log(line)
  }
  const report = await bench(print)
  const kind = machineKind()
  const baselines = await readBaselines(kind)
  print('')
  for (const line of describeChange(report, baselines[name])) print(line)
  if (values.json) console.log(JSON.stringify({ name, ...report }))
  if (values.save) {
    const date = new Date().toISOString().slice(0, 10)
    await writeBaseline(kind, name, { date, ...report })
    print(`saved as the baseline of ${kind}`)
  }
}
