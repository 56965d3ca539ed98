import { describe, expect, it } from 'vitest'
import type { DeviceBuffer, DType, LinearWeight, Tensor } from '../device/tensor.ts'
import type { BatchRow } from './batch.ts'
import { opCost } from './costs.ts'

const of = (dtype: DType, ...shape: number[]): Tensor => {
  return { buffer: 1 as DeviceBuffer, byteOffset: 0, dtype, shape }
}
const f32 = (...shape: number[]): Tensor => of('f32', ...shape)
const i32 = (...shape: number[]): Tensor => of('i32', ...shape)
const bf16 = (...shape: number[]): Tensor => of('bf16', ...shape)

function fp8(rows: number, width: number): LinearWeight {
  return {
    weight: of('f8e4m3', rows, width),
    scale: of('e8m0', Math.ceil(rows / 128), Math.ceil(width / 128)),
  }
}

function fp4Stack(count: number, rows: number, width: number): LinearWeight {
  return { weight: of('fp4', count, rows, width), scale: of('e8m0', count, rows, width / 32) }
}

/** Rows `start … end − 1` of one slot. */
function segment(slot: number, start: number, end: number): BatchRow[] {
  return Array.from({ length: end - start }, (_, i) => ({ position: start + i, slot, start, end }))
}

const noRows = { rows: [] }

describe('what an op costs', () => {
  it('a copy reads and writes', () => {
    expect(opCost('copy', { from: bf16(3, 5), to: bf16(3, 5) }, noRows)).toEqual({
      flops: 0,
      bytes: 60,
    })
  })

  it('an embedding reads a row a token, not the table', () => {
    const args = { tokens: i32(3), table: bf16(1000, 8), streams: f32(3, 4, 8) }
    expect(opCost('embed', args, noRows)).toEqual({ flops: 0, bytes: 12 + 3 * 16 + 384 })
  })

  it('a linear reads its input once for all parts', () => {
    const args = {
      input: f32(2, 256),
      quantise: true,
      parts: [
        { weight: fp8(128, 256), output: f32(2, 128) },
        { weight: { weight: bf16(4, 256), scale: null }, output: f32(2, 4) },
      ],
    }
    expect(opCost('linear', args, noRows)).toEqual({
      flops: 2 * 2 * 256 * (128 + 4),
      bytes: 2048 + (32_768 + 2 + 1024) + (2048 + 32),
    })
  })

  it('a grouped linear multiplies each input with its own group only', () => {
    const args = { input: f32(3, 512), weight: fp8(64, 256), groups: 2, output: f32(3, 64) }
    expect(opCost('grouped-linear', args, noRows)).toEqual({
      flops: 2 * 3 * 64 * 256,
      bytes: 6144 + 16_384 + 2 + 768,
    })
  })

  it('an update of streams has S + 1 products for each value, in place', () => {
    const args = {
      streams: f32(3, 4, 8),
      update: { output: f32(3, 8), post: f32(3, 4), mix: f32(3, 4, 4) },
    }
    expect(opCost('hc-post', args, noRows)).toEqual({
      flops: 2 * 5 * 96,
      bytes: 2 * 384 + 96 + 48 + 192,
    })
  })

  it('entering a sub-layer multiplies 24 rows with the streams and contracts them', () => {
    const args = {
      streams: f32(1, 4, 8),
      pending: null,
      fn: f32(24, 32),
      scale: f32(3),
      base: f32(24),
      norm: bf16(8),
      sinkhornIterations: 20,
      hcEps: 1e-6,
      normEps: 1e-6,
      normed: f32(1, 8),
      post: f32(1, 4),
      mix: f32(1, 4, 4),
    }
    expect(opCost('hc-pre', args, noRows)).toEqual({
      flops: 2 * 24 * 32 + 2 * 32,
      bytes: 128 + 3072 + 12 + 96 + 16 + 32 + 16 + 64,
    })
    const pending = { output: f32(1, 8), post: f32(1, 4), mix: f32(1, 4, 4) }
    expect(opCost('hc-pre', { ...args, pending }, noRows)).toEqual({
      flops: 2 * 24 * 32 + 2 * 32 + 2 * 5 * 32,
      bytes: 256 + 32 + 16 + 64 + 3072 + 12 + 96 + 16 + 32 + 16 + 64,
    })
  })

  it('leaving the layers touches the rows asked for', () => {
    const args = {
      streams: f32(5, 4, 8),
      pending: null,
      picks: i32(2),
      fn: f32(4, 32),
      scale: f32(1),
      base: f32(4),
      norm: bf16(8),
      hcEps: 1e-6,
      normEps: 1e-6,
      output: f32(2, 8),
    }
    expect(opCost('hc-head', args, noRows)).toEqual({
      flops: 2 * (4 * 32 + 32) * 2,
      bytes: 2 * 128 + 8 + 512 + 4 + 16 + 16 + 64,
    })
  })

  it('norms and rotations go over their values once, in place', () => {
    const frequencies = f32(4)
    const latent = {
      queryLatent: f32(2, 16),
      queryNorm: bf16(16),
      keys: f32(2, 72),
      keyNorm: bf16(72),
      frequencies,
      rows: i32(2, 4),
      quantise: true,
      eps: 1e-6,
    }
    expect(opCost('latent-norm', latent, noRows)).toEqual({
      flops: 0,
      bytes: 2 * (128 + 576) + 32 + 144 + 16 + 32,
    })
    const queries = { queries: f32(2, 3, 32), frequencies, rows: i32(2, 4) }
    expect(opCost('query-rotate', { ...queries, eps: 1e-6 }, noRows)).toEqual({
      flops: 0,
      bytes: 2 * 768 + 16 + 32,
    })
    expect(opCost('index-query', { ...queries, quantise: true }, noRows)).toEqual({
      flops: 2 * 3 * 32 * 5,
      bytes: 2 * 768 + 16 + 32,
    })
  })

  it('drafts gather and add', () => {
    const inputs = {
      tokens: i32(2),
      table: bf16(100, 8),
      source: f32(9, 4, 8),
      picks: i32(2),
      embeddingNorm: bf16(8),
      streamNorm: bf16(8),
      eps: 1e-6,
      embedding: f32(2, 8),
      streams: f32(2, 4, 8),
    }
    expect(opCost('draft-inputs', inputs, noRows)).toEqual({
      flops: 0,
      bytes: 2 * 16 + 256 + 8 + 8 + 16 + 16 + 64 + 256,
    })
    const join = { embedding: f32(2, 8), streams: f32(2, 4, 8) }
    expect(opCost('draft-join', join, noRows)).toEqual({ flops: 0, bytes: 64 + 512 })
  })
})

describe('what an op of the cache costs', () => {
  const compress = (rows: number) => ({
    values: f32(rows, 16),
    scores: f32(rows, 16),
    ape: f32(4, 16),
    norm: bf16(8),
    frequencies: f32(2),
    rows: i32(rows, 4),
    pages: i32(2, 4),
    valueRing: f32(2, 10, 16),
    scoreRing: f32(2, 10, 16),
    entries: f32(3, 64, 8),
    ratio: 4,
    span: 2,
    use: 'keys' as const,
    quantise: true,
    eps: 1e-6,
  })

  it('a compressor pools only where a block ends, and reads older rows from its rings', () => {
    const operands = 128 + 256 + 16 + 8 + 16
    expect(opCost('compress', compress(1), { rows: segment(0, 9, 10) })).toEqual({
      flops: 0,
      bytes: operands + 128,
    })
    // Position 11 pools 4 … 11, of which all but the last lie in the ring.
    expect(opCost('compress', compress(1), { rows: segment(0, 11, 12) })).toEqual({
      flops: 2 * 8 * 8,
      bytes: operands + 7 * 128 + 128 + 32,
    })
    // The first block has none before it.
    expect(opCost('compress', compress(4), { rows: segment(1, 0, 4) })).toEqual({
      flops: 2 * 4 * 8,
      bytes: 2 * 256 + 256 + 16 + 8 + 64 + 4 * 128 + 32,
    })
  })

  it('the index is scored only where there is a choice', () => {
    const args = {
      queries: f32(2, 3, 32),
      weights: f32(2, 3),
      scale: 1,
      entries: f32(4, 64, 32),
      rows: i32(2, 4),
      pages: i32(2, 2),
      ratio: 4,
      selected: i32(2, 8),
    }
    const operands = 768 + 24 + 32 + 64
    const rows = [...segment(0, 31, 32), ...segment(1, 99, 100)]
    expect(opCost('index-select', args, { rows })).toEqual({
      flops: 2 * 25 * 3 * 33,
      bytes: operands + 25 * 128,
    })
  })

  it('attention meets a window and its entries twice, and reads each of a chunk once', () => {
    const args = {
      queries: f32(3, 2, 8),
      keys: f32(3, 8),
      window: f32(2, 20, 8),
      windowSize: 16,
      compressed: { entries: f32(4, 16, 8), ratio: 16, selected: null },
      sink: f32(2),
      frequencies: f32(2),
      rows: i32(3, 4),
      pages: i32(2, 4),
      scale: 1,
      output: f32(3, 2, 8),
    }
    const operands = 192 + 96 + 8 + 8 + 48 + 192
    const decode = { ...args, compressed: null }
    expect(opCost('attention', decode, { rows: segment(0, 5, 8) })).toEqual({
      flops: 4 * 2 * 8 * (6 + 7 + 8),
      bytes: operands + (5 + 3) * 32,
    })
    expect(opCost('attention', args, { rows: segment(0, 100, 103) })).toEqual({
      flops: 4 * 2 * 8 * 3 * (16 + 6),
      bytes: operands + (15 + 3) * 32 + 6 * 32,
    })
    const selected = { ...args.compressed, selected: i32(3, 1) }
    expect(
      opCost('attention', { ...args, compressed: selected }, { rows: segment(0, 100, 103) }),
    ).toEqual({
      flops: 4 * 2 * 8 * 3 * (16 + 1),
      bytes: operands + 12 + (15 + 3) * 32 + 3 * 32,
    })
  })
})

describe('what the mixture of experts costs', () => {
  it('the router scores all experts, or those of a table', () => {
    const args = {
      input: f32(2, 16),
      tokens: i32(2),
      gate: bf16(32, 16),
      scalingFactor: 1.5,
      experts: i32(2, 3),
      weights: f32(2, 3),
    }
    const operands = 128 + 8 + 24 + 24
    expect(opCost('route', { ...args, choice: { by: 'score', bias: f32(32) } }, noRows)).toEqual({
      flops: 2 * 2 * 32 * 16,
      bytes: operands + 1024 + 128,
    })
    expect(
      opCost('route', { ...args, choice: { by: 'token', table: i32(100, 3) } }, noRows),
    ).toEqual({ flops: 2 * 2 * 3 * 16, bytes: operands + 6 * 32 + 24 })
  })

  it('experts are read once, however many rows picked them', () => {
    const args = {
      input: f32(4, 64),
      experts: i32(4, 2),
      weights: f32(4, 2),
      routed: { gate: fp4Stack(6, 32, 64), up: fp4Stack(6, 32, 64), down: fp4Stack(6, 64, 32) },
      shared: { gate: fp8(32, 64), up: fp8(32, 64), down: fp8(64, 32) },
      limit: 10,
      quantise: true,
      output: f32(4, 64),
    }
    const expert = 3 * (1024 + 64)
    const operands = 1024 + 32 + 32 + 1024 + 3 * (2048 + 1)
    const flops = 2 * 4 * (2 + 1) * 3 * 2048
    expect(opCost('experts', args, noRows)).toEqual({ flops, bytes: operands + 6 * expert })
    expect(opCost('experts', args, { rows: [], expertsPicked: 3 })).toEqual({
      flops,
      bytes: operands + 3 * expert,
    })
  })
})
