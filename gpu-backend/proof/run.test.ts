import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import {
  copyFile,
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ensureDisguisedLibrary } from '../src/device/cuda/testing/fake.ts'
import { ensureSimtLibrary } from '../src/kernels/native/build.ts'
import { packKit } from './pack.ts'
import { type Proof, resultsOf } from './report.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const driver = await ensureDisguisedLibrary()
const kernels = await ensureSimtLibrary()
const missing = [driver, kernels].find((built) => 'reason' in built)
if (missing !== undefined && 'reason' in missing) console.warn(`skipped: ${missing.reason}`)

/** Everything a bare machine is asked for, beside the driver. */
const tools = ['sh', 'dirname', 'mktemp', 'cp', 'rm', 'chmod', 'gzip']

/** The toolkit's checker as it behaves: one run finds nothing, one something, one refuses the card. */
const checker = `#!/bin/sh
[ "$1" = --version ] && exit 0
[ "$1 $3 $5 $7 $9" = "--tool --target-processes --report-api-errors --print-limit --error-exitcode" ] || exit 2
tool=$2
shift 10
case $tool in
  memcheck) "$@"; echo "========= ERROR SUMMARY: 0 errors" ;;
  racecheck) echo "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)"; exit 9 ;;
  *) echo "========= Error: Device not supported"; exit 1 ;;
esac
`

/** A folder that is a machine with a driver, a checkout and its kit, and next to nothing else. */
class BareMachine {
  readonly path: string

  constructor(path: string) {
    this.path = path
  }

  static async build(driverPath: string): Promise<BareMachine> {
    const path = await mkdtemp(join(tmpdir(), 'sluice-bare-'))
    for (const folder of ['bin', 'lib', 'tmp', 'tree']) await mkdir(join(path, folder))
    for (const tool of tools) {
      const found = execFileSync('sh', ['-c', `command -v ${tool}`], { encoding: 'utf8' }).trim()
      await symlink(found, join(path, 'bin', tool))
    }
    await writeFile(join(path, 'bin/compute-sanitizer'), checker, { mode: 0o755 })
    await copyFile(driverPath, join(path, 'lib/libcuda.so.1'))
    for (const part of ['package.json', 'gpu-backend', 'weights', 'test']) {
      await cp(join(root, part), join(path, 'tree', part), { recursive: true })
    }
    await packKit({ into: join(path, 'tree/.sluice/proof-kit'), level: 0 })
    return new BareMachine(path)
  }

  run(...args: readonly string[]): { readonly status: number | null; readonly output: string } {
    const { status, stdout, stderr } = spawnSync(
      join(this.path, 'bin/sh'),
      [join(this.path, 'tree/gpu-backend/proof/run.sh'), ...args],
      {
        encoding: 'utf8',
        env: {
          PATH: join(this.path, 'bin'),
          TMPDIR: join(this.path, 'tmp'),
          LD_LIBRARY_PATH: join(this.path, 'lib'),
          SLUICE_SIMT_LIBRARY: 'path' in kernels ? kernels.path : '',
        },
      },
    )
    return { status, output: `${stdout}${stderr}` }
  }
}

describe.skipIf(missing !== undefined)('the proof on a bare machine', () => {
  let machine: BareMachine
  beforeAll(async () => {
    if ('path' in driver) machine = await BareMachine.build(driver.path)
  }, 60_000)
  afterAll(() => rm(machine.path, { recursive: true, force: true }))

  it('goes through every process it is made of, and says what it could not run', async () => {
    const out = join(machine.path, 'out')
    const stages = 'times,checkers,torch'
    const { status, output } = machine.run('--toy', '--only', stages, '--out', out)
    const [file = output] = (await readdir(out)).filter((name) => name.endsWith('.json'))
    const proof = JSON.parse(await readFile(join(out, file), 'utf8')) as Proof
    // One checker found something: that alone is a failure.
    expect(status).toBe(1)
    expect(proof).toMatchObject({
      card: 'no GPU but the host',
      fake: false,
      toy: true,
      missing: [],
    })
    const times = resultsOf(proof, 'times').flatMap((kind) => kind.times)
    expect(times.map(({ kind, step }) => `${kind} ${step}`)).toEqual(
      ['swa', 'csa', 'hca'].flatMap((kind) => [`${kind} decode 1`, `${kind} prefill 6`]),
    )
    const checkers = resultsOf(proof, 'checkers')
    expect(checkers.map(({ clean, summary }) => [clean, summary])).toEqual([
      [true, 'ERROR SUMMARY: 0 errors'],
      [false, 'RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)'],
      [null, 'it ended with 1: ========= Error: Device not supported'],
    ])
    const { cases = 0, left = 0 } = checkers[0] ?? {}
    // How many are done before a checker's time is over is a matter of the machine.
    expect(cases).toBeGreaterThan(0)
    expect(cases + left).toBeGreaterThan(200)
    expect(resultsOf(proof, 'torch')).toEqual([{ reason: 'there is no python3 on this machine' }])
  }, 120_000)

  it('leaves nothing behind but the results', async () => {
    expect(existsSync(join(machine.path, 'tree/node_modules'))).toBe(false)
    expect(await readdir(join(machine.path, 'tmp'))).toEqual([])
  })

  it('says what is missing where there is no driver, and where there is no kit', async () => {
    await rm(join(machine.path, 'lib/libcuda.so.1'))
    const noDriver = machine.run()
    expect(noDriver.status).toBe(1)
    expect(noDriver.output).toContain('no NVIDIA driver: libcuda.so.1 cannot be opened')
    await rm(join(machine.path, 'tree/.sluice'), { recursive: true })
    const noKit = machine.run()
    expect(noKit.status).toBe(2)
    expect(noKit.output).toContain('npm run gpu:proof -- --pack')
  })
})
