import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { SpillFolder } from './prefix-spill.ts'

const content = (first: number, length = 100): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (first + i) % 256)

describe('SpillFolder', () => {
  let root: string
  let folder: string

  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'spill-'))
    folder = join(root, 'prefixes')
  })
  afterEach(() => rmSync(root, { recursive: true }))

  it('gives back what it was given, once', () => {
    const spill = new SpillFolder(folder, 1000)
    spill.save('a\u00ff/..', content(7))
    expect([spill.has('a\u00ff/..'), spill.has('b'), spill.bytes]).toEqual([true, false, 100])
    expect(new Uint8Array(spill.take('a\u00ff/..') ?? [])).toEqual(content(7))
    expect([spill.take('a\u00ff/..'), spill.bytes, readdirSync(folder)]).toEqual([null, 0, []])
  })

  it('stays within its bytes, and lets the oldest go', () => {
    const spill = new SpillFolder(folder, 250)
    for (const [index, key] of ['a', 'b', 'c'].entries()) spill.save(key, content(index))
    expect(['a', 'b', 'c'].map((key) => spill.has(key))).toEqual([false, true, true])
    spill.save('b', content(9))
    spill.save('d', content(3))
    expect(['b', 'c', 'd'].map((key) => spill.has(key))).toEqual([true, false, true])
    expect([spill.bytes, readdirSync(folder).length]).toEqual([200, 2])
    spill.save('e', content(0, 251))
    expect([spill.has('e'), spill.bytes]).toEqual([false, 200])
  })

  it('begins empty, and leaves what is not its own alone', () => {
    new SpillFolder(folder, 1000).save('a', content(1))
    writeFileSync(join(folder, 'notes.txt'), 'mine')
    const spill = new SpillFolder(folder, 1000)
    expect([spill.has('a'), readdirSync(folder)]).toEqual([false, ['notes.txt']])
  })

  it('is for the eyes of its user alone', () => {
    new SpillFolder(folder, 1000).save('a', content(1))
    const [name = ''] = readdirSync(folder)
    const modes = [folder, join(folder, name)].map((path) => statSync(path).mode & 0o777)
    expect(modes).toEqual([0o700, 0o600])
  })

  it('does without a disk that fails', () => {
    const spill = new SpillFolder(folder, 1000)
    spill.save('a', content(1))
    rmSync(folder, { recursive: true })
    spill.save('b', content(2))
    expect([spill.has('b'), spill.take('a'), spill.bytes]).toEqual([false, null, 0])
  })
})
