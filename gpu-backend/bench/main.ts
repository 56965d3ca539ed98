import { parseArgs } from 'node:util'
import type { Bench } from './bench.ts'
import { kernelsBench } from './kernels.ts'

/** What can be measured: `npm run bench -- kernels [--json]`. */
const benches: Readonly<Record<string, Bench>> = {
  kernels: kernelsBench,
}

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { json: { type: 'boolean', default: false } },
})
const [name = ''] = positionals
const bench = benches[name]
if (bench === undefined || positionals.length !== 1) {
  console.error(`usage: npm run bench -- ${Object.keys(benches).join(' | ')} [--json]`)
  process.exitCode = 2
} else {
  const report = await bench((line) => {
    if (!values.json) console.log(line)
  })
  if (values.json) console.log(JSON.stringify({ name, ...report }))
}
