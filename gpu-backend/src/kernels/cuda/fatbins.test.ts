import { describe, expect, it } from 'vitest'
import {
  architectures,
  compileFatbin,
  cudaSources,
  fatbinName,
  hashOf,
  nvccVersion,
  readFatbin,
  readFatbinList,
  readFatbins,
  resourcesIn,
  sourceHash,
  spillBytesMax,
} from './fatbins.ts'

const list = await readFatbinList()
const sources = await cudaSources()
const compiler = await nvccVersion()

/** Registers of a multiprocessor, and threads a block at most of any kernel here. */
const registersOfMultiprocessor = 65_536
const threadsMax = 256
/** Of a kernel that takes tiles from a ring (`tile-ring.h`). */
const ringThreads = 288

const resources = Object.values(list.modules).flatMap(({ kernels }) =>
  Object.entries(kernels).flatMap(([kernel, built]) =>
    Object.entries(built).map(([architecture, taken]) => ({ kernel, architecture, taken })),
  ),
)

describe('the fatbins', () => {
  it('are those of the sources as they are, and nothing else', async () => {
    expect(Object.keys(list.modules).sort()).toEqual(sources.map(fatbinName).sort())
    for (const source of sources) {
      const name = fatbinName(source)
      const { sources: known, fatbin } = list.modules[name] ?? {}
      expect(known, `${source} changed: run npm run kernels:cuda`).toBe(await sourceHash(source))
      expect(fatbin, `${name}.fatbin`).toBe(hashOf(await readFatbin(name)))
    }
  })

  it('are read as modules, all together within what a checkout should carry', async () => {
    const modules = await readFatbins()
    if ('reason' in modules) return expect.fail(modules.reason)
    const bytes = modules.reduce((sum, module) => sum + module.bytes.length, 0)
    expect(bytes).toBeLessThan(5 * 2 ** 20)
    // What a fatbin begins with.
    for (const { bytes: fatbin } of modules) {
      expect([...fatbin.subarray(0, 4)]).toEqual([0x50, 0xed, 0x55, 0xba])
    }
  })
})

describe('resources of kernels', () => {
  it('are known for every kernel on every architecture with machine code', () => {
    const exact = architectures.flatMap((built) => ('exact' in built ? [`sm_${built.exact}a`] : []))
    for (const { kernels } of Object.values(list.modules)) {
      for (const built of Object.values(kernels))
        expect(Object.keys(built).sort()).toEqual(exact.sort())
    }
  })

  it('leave room for a block: registers, hardly any of them in memory, no shared memory of their own', () => {
    for (const { kernel, architecture, taken } of resources) {
      const what = `${kernel} on ${architecture}`
      const threads = kernel.endsWith('_wgmma') ? ringThreads : threadsMax
      const registers = Math.ceil(taken.registers / 8) * 8 * threads
      expect(registers, what).toBeLessThanOrEqual(registersOfMultiprocessor)
      expect(taken.spillBytes, what).toBeLessThanOrEqual(spillBytesMax)
      expect(taken.sharedBytes, what).toBe(0)
    }
  })

  it('are read from what the assembler says', () => {
    const output = `ptxas info    : Compiling entry function 'embed' for 'sm_90a'
ptxas info    : Function properties for embed
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 8 bytes cumulative stack size, 96 bytes smem`
    const taken = { registers: 40, stackBytes: 8, spillBytes: 16, sharedBytes: 96 }
    expect(resourcesIn(output)).toEqual({ embed: { sm_90a: taken } })
  })
})

describe.skipIf(compiler !== list.compiler)(`nvcc ${list.compiler}`, () => {
  // All of them takes minutes.
  const chosen = process.env['KERNELS_CUDA'] === 'all' ? sources : ['draft-join/draft-join.cu']

  it.each(chosen)('makes the same fatbin of %s again', { timeout: 600_000 }, async (source) => {
    const known = list.modules[fatbinName(source)]
    const { bytes, kernels } = await compileFatbin(source)
    expect({ fatbin: hashOf(bytes), kernels }).toEqual({
      fatbin: known?.fatbin,
      kernels: known?.kernels,
    })
  })
})
