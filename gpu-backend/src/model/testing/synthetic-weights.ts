import { tensorBytes, tensorInventory, type TensorSpec } from '#weights/layout/inventory.ts'
import type { ModelConfig } from '#weights/layout/config.ts'
import type { TensorLocation } from '#weights/manifest.ts'
import { MemoryStore } from '#weights/store/memory.ts'
import { SplitMix } from '#weights/toy/splitmix.ts'
import { toyTensor } from '#weights/toy/tensors.ts'
import type { WeightSource } from '../weight-placer.ts'

/** A checkpoint's directory without its bytes; `syntheticTensor` makes those. */
export function syntheticSource(config: ModelConfig): WeightSource {
  const tensors = tensorInventory(config).map((spec): TensorLocation => {
    return { ...spec, file: spec.name, offset: 0, bytes: tensorBytes(spec) }
  })
  return {
    location: 'synthetic weights',
    store: new MemoryStore(),
    config,
    tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])),
  }
}

/**
 * A tensor's bytes, a function of its name, dtype and shape. Codes and scales, which are nearly all
 * of a model, are cut from one block of random bytes at a place the name decides: drawing gigabytes
 * one by one takes longer than the runs they are for. The rest is as in the toy checkpoint.
 */
export function syntheticTensor(spec: TensorSpec): Uint8Array<ArrayBuffer> {
  switch (spec.dtype) {
    case 'I8':
      return cut(fp4Codes, spec)
    case 'F8_E4M3':
      return cut(fp8Codes, spec)
    case 'F8_E8M0':
      return cut(isRoutedExpert(spec.name) ? fp4Scales : fp8Scales, spec)
    case 'BF16':
    case 'F32':
    case 'I64':
      return toyTensor(spec)
    default:
      return spec.dtype satisfies never
  }
}

function isRoutedExpert(name: string): boolean {
  return /\.experts\.\d+\./.test(name)
}

/** Prime, so that repetitions in one tensor do not fall onto whole rows. */
const blockBytes = 4_194_301
const randomBlock = drawBlock()
const fp4Codes = randomBlock
/** 0x7F and 0xFF are no numbers. */
const fp8Codes = randomBlock.map((byte) => ((byte & 127) === 127 ? byte - 1 : byte))
/**
 * Four exponents in a row, such that 4096 products of a unit input sum up to about one: FP4 codes
 * have a mean square near 9, FP8 codes one near 10,000, which is five powers of two apart.
 */
const fp4Scales = randomBlock.map((byte) => 117 + (byte >> 6))
const fp8Scales = randomBlock.map((byte) => 112 + (byte >> 6))

function drawBlock(): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(blockBytes)
  const numbers = new SplitMix('synthetic weights')
  for (let i = 0; i < bytes.length; i++) {
    numbers.next()
    bytes[i] = numbers.high >>> 24
  }
  return bytes
}

function cut(block: Uint8Array, spec: TensorSpec): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(tensorBytes(spec))
  const numbers = new SplitMix(spec.name)
  numbers.next()
  let from = numbers.high % block.length
  for (let at = 0; at < bytes.length; from = 0) {
    const part = block.subarray(from, from + bytes.length - at)
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}
