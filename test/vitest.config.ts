import { cloudflareTest } from '@cloudflare/vitest-plugin'
import { defineConfig } from 'vitest/config'
import { PlainSummary } from './support/plain-summary.ts'

const root = new URL('..', import.meta.url).pathname
const globalSetup = `${root}test/support/native-kernels.ts`

/** Against what hangs; a machine with other work makes any test ten times as long. */
const testTimeout = 120_000

/**
 * Five projects, by what a test needs: `unit` nothing (tests beside the code), `edge` the Workers
 * runtime, `simulation` time of its own making, `engine` a device or the toy checkpoint, `e2e` real
 * processes on loopback.
 */
export default defineConfig({
  root,
  test: {
    // Left alone, a core is kept free, which is half of a machine with two.
    maxWorkers: '100%',
    reporters: ['default', new PlainSummary()],
    projects: [
      {
        test: {
          name: 'unit',
          globalSetup,
          include: ['{gpu-backend,weights,infra}/**/*.test.ts'],
          testTimeout,
          hookTimeout: testTimeout,
        },
      },
      {
        plugins: [
          cloudflareTest({
            wrangler: { configPath: './wrangler.toml' },
            miniflare: { cf: false },
          }),
        ],
        test: {
          name: 'edge',
          include: ['edge/src/**/*.test.ts', 'test/edge/**/*.test.ts'],
          testTimeout,
          hookTimeout: testTimeout,
        },
      },
      {
        test: {
          name: 'simulation',
          include: ['test/simulation/**/*.test.ts'],
          testTimeout,
        },
      },
      {
        test: {
          name: 'engine',
          globalSetup,
          include: ['test/{engine,kernels,weights}/**/*.test.ts'],
          testTimeout,
          hookTimeout: testTimeout,
        },
      },
      {
        test: {
          name: 'e2e',
          globalSetup,
          include: ['test/e2e/**/*.test.ts'],
          fileParallelism: false,
          testTimeout,
          hookTimeout: testTimeout,
        },
      },
    ],
  },
})
