import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../device/reference.ts'
import { sliceRows } from '../device/tensor.ts'
import { Pool } from './pool.ts'

function bytes(device: ReferenceDevice, pool: ReturnType<Pool['add']>, item: number): number[] {
  const row = sliceRows(pool.tensor, item, 1)
  const into = new Uint8Array(8)
  device.read(row.buffer, row.byteOffset, into)
  return [...into]
}

describe('Pool', () => {
  it('takes no memory before its first item', () => {
    const device = new ReferenceDevice()
    const pool = new Pool(device, { first: 2, max: 5 })
    pool.add({ label: 'keys', dtype: 'f32', item: [2] })
    expect([pool.allocatedBytes, device.memory().buffers]).toEqual([0, 0])
  })

  it('grows by doubling up to its ceiling, and keeps what its items hold', () => {
    const device = new ReferenceDevice()
    const pool = new Pool(device, { first: 2, max: 5 })
    const member = pool.add({ label: 'keys', dtype: 'f32', item: [2] })
    const capacities: number[] = []
    for (let item = 0; item < 5; item++) {
      expect(pool.take()).toBe(item)
      capacities.push(pool.capacity)
      const row = sliceRows(member.tensor, item, 1)
      device.write(row.buffer, row.byteOffset, new Uint8Array(8).fill(item))
    }
    expect(capacities).toEqual([2, 2, 4, 4, 5])
    expect([0, 1, 4].map((item) => bytes(device, member, item)[0])).toEqual([0, 1, 4])
    expect(device.memory()).toMatchObject({ allocatedBytes: 40, buffers: 1 })
    expect(() => pool.take()).toThrow('a pool of 5 is not overdrawn')
  })

  it('gives returned items out again, and takes each back once', () => {
    const pool = new Pool(new ReferenceDevice(), { first: 2, max: 5 })
    const [first] = [pool.take(), pool.take()]
    pool.give(first)
    expect(() => pool.give(first)).toThrow('item 0 is in use')
    expect([pool.used, pool.take(), pool.capacity]).toEqual([1, first, 2])
  })

  it('keeps a shared item until its last user gives it back', () => {
    const pool = new Pool(new ReferenceDevice(), { first: 2, max: 2 })
    const item = pool.take()
    pool.share(item)
    pool.give(item)
    expect([pool.used, pool.left]).toEqual([1, 1])
    expect(pool.take()).not.toBe(item)
    pool.give(item)
    expect([pool.used, pool.left]).toEqual([1, 1])
    expect(() => pool.share(item)).toThrow('item 0 is in use')
    expect(pool.take()).toBe(item)
  })
})
