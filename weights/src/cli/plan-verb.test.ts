import { PassThrough } from 'node:stream'
import { text } from 'node:stream/consumers'
import { describe, expect, it } from 'vitest'
import { runWeights } from './run.ts'

async function plan(...args: string[]) {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()]
  const [out, err] = [text(stdout), text(stderr)]
  const code = await runWeights(['plan', ...args], { env: {}, stdout, stderr })
  stdout.end()
  stderr.end()
  return { code, out: await out, err: await err }
}

describe('npm run weights -- plan', () => {
  it('says what fits for people', async () => {
    const { code, out } = await plan('--gpus', '1xH200', '--model', 'v4-flash')
    expect(code).toBe(0)
    expect(out).toContain('v4-flash on 1xH200, steps of up to 4,096 rows\n')
    expect(out).toContain('draft block                   3.6 GB (dropped)\n')
    expect(out).toContain('In pinned host memory: 654 of 11,008 experts (5.9 %), 8.7 GB;')
    expect(out).toContain('      1 sequences of 131,072 tokens, 476.1 MB each\n')
  })

  it('and for machines', async () => {
    const args = ['--gpus', '8xB200', '--model', 'v4-pro', '--context', '1000000', '--json']
    const { code, out } = await plan(...args)
    expect(code).toBe(0)
    expect(JSON.parse(out)).toMatchObject({
      gpus: '8xB200',
      model: 'v4-pro',
      fits: true,
      draft: 'kept',
      hostExperts: null,
      capacities: [{ context: 8192 }, { context: 131_072 }, { context: 1_000_000 }, {}],
    })
  })

  it.each([
    { args: ['--gpus', '4xA100'], says: '--gpus is a count and a kind like 4xH200, not 4xA100' },
    { args: ['--model', 'v3'], says: '--model is v4-flash or v4-pro, not v3' },
    { args: ['--context', '0'], says: '--context is a whole number from 1 to 1048576, not 0' },
    { args: ['--step-rows', 'x'], says: '--step-rows is a whole number from 1 to 1048576, not x' },
  ])('refuses $args', async ({ args, says }) => {
    const { code, err } = await plan('--gpus', '1xH200', '--model', 'v4-flash', ...args)
    expect(code).toBe(2)
    expect(err).toContain(`error: ${says}`)
  })
})
