import { describe, expect, it } from 'vitest'
import { isSafeKey } from './key.ts'
import { openStore } from './open.ts'
import { StoreError } from './store.ts'

const location = (url: string): string => openStore(url, {}).location
const code = (url: string): string => {
  try {
    return openStore(url, {}).location
  } catch (error) {
    if (error instanceof StoreError) return error.code
    throw error
  }
}

describe('the location of a checkpoint', () => {
  it.each([
    ['s3://models', 's3://models'],
    ['s3://models/', 's3://models'],
    ['s3://models/v4/flash', 's3://models/v4/flash'],
    ['s3://models/v4/flash/', 's3://models/v4/flash'],
    ['/data/v4', '/data/v4'],
    ['/data/v4/', '/data/v4'],
    ['file:///data/v4', '/data/v4'],
    ['v4', `${process.cwd()}/v4`],
  ])('%s is %s', (url, expected) => {
    expect(location(url)).toBe(expected)
  })

  it.each([
    '',
    's3://',
    's3:///x',
    's3://m',
    's3://models/../other',
    's3://models//x',
    's3://user@models/x',
    'http://host/bucket',
    'gs://bucket',
  ])('%j is refused', (url) => {
    expect(code(url)).toBe('rejected')
  })
})

describe('an endpoint', () => {
  const at = (AWS_ENDPOINT_URL_S3: string) => () =>
    openStore('s3://models/x', { AWS_ENDPOINT_URL_S3 })

  it('is part of the location, without what would give it away', () => {
    expect(at('http://key:secret@127.0.0.1:9000/path')().location).toBe(
      's3://models/x at 127.0.0.1:9000',
    )
  })

  it('that is no URL is refused', () => {
    expect(at('127.0.0.1:9000')).toThrow(StoreError)
    expect(at('storage')).toThrow(StoreError)
  })
})

describe('a key', () => {
  it.each([
    'a',
    'model-00001-of-00046.safetensors',
    'encoding/encoding_dsv4.py',
    '.hidden',
    'a..b',
  ])('%j may be used', (key) => {
    expect(isSafeKey(key)).toBe(true)
  })

  it.each([
    '',
    '/',
    '/a',
    'a/',
    'a//b',
    '.',
    '..',
    'a/../b',
    '...',
    'a\\b',
    'a%2fb',
    'a b',
    'ä',
    'a\0',
    'a'.repeat(513),
  ])('%j may not', (key) => {
    expect(isSafeKey(key)).toBe(false)
  })
})
