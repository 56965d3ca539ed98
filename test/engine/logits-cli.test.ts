import { execFile } from 'node:child_process'
import { mkdir } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openDirectoryStore } from '#weights/store/directory.ts'
import { writeToy } from '#weights/toy/files.ts'
import { makeScratch, type Scratch } from '../support/scratch.ts'
import { feed, goldenTokens, loadToyModel } from '../support/toy-model.ts'

const script = new URL('../../gpu-backend/src/logits/main.ts', import.meta.url).pathname

interface Ended {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

function logits(...args: string[]): Promise<Ended> {
  return new Promise((resolve) => {
    execFile(process.execPath, [script, ...args], (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, stdout, stderr })
    })
  })
}

describe('npm run logits', () => {
  let scratch: Scratch
  let place: string

  beforeAll(async () => {
    scratch = await makeScratch('logits')
    place = `${scratch.path}/toy`
    await mkdir(place)
    await writeToy(openDirectoryStore(place))
  })

  afterAll(() => scratch.remove())

  it('prints one JSON object with the logits behind each token', async () => {
    const options = ['--device', 'reference', '--prefill', '2', '--norms']
    const ended = await logits('--checkpoint', place, '--tokens', '5,15,39', ...options)
    expect({ code: ended.code, stderr: ended.stderr }).toEqual({ code: 0, stderr: '' })
    const { logits: rows, norms, ...report } = JSON.parse(ended.stdout)
    expect(report).toEqual({
      checkpoint: place,
      model: null,
      device: 'reference',
      quantisation: 'off',
      tokens: [5, 15, 39],
      prefill: 2,
    })
    const { model } = await loadToyModel()
    const sequence = model.createSequence({ maxTokens: 3 })
    const expected = feed(model, sequence, goldenTokens(0, 3))
    expect(rows).toEqual(expected.map((row) => [...row]))
    expect(norms[0][4]).toBeCloseTo(73.328, 2)
  })

  it('ends with 2 and the name of the option when the command line is at fault', async () => {
    const refusals: readonly (readonly [string[], string])[] = [
      [['--checkpoint', place], '--tokens'],
      [['--checkpoint', place, '--tokens', '5,512'], '--tokens has 512'],
    ]
    for (const [args, named] of refusals) {
      const ended = await logits(...args)
      expect({ code: ended.code, stdout: ended.stdout }).toEqual({ code: 2, stdout: '' })
      expect(ended.stderr).toContain(named)
      expect(ended.stderr.trimEnd().split('\n')).toHaveLength(1)
    }
  })

  it('ends with 1 when there is no checkpoint', async () => {
    const ended = await logits('--checkpoint', `${scratch.path}/none`, '--tokens', '5')
    expect({ code: ended.code, stdout: ended.stdout }).toEqual({ code: 1, stdout: '' })
    expect(ended.stderr).toContain('config.json')
  })
})
