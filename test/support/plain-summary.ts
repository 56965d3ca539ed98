import type { Reporter, TestModule } from 'vitest/node'

/** Prints the run's result as one plain line that a machine can read: `N passed, N failed`. */
export class PlainSummary implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly unknown[]): void {
    const count = { passed: 0, failed: 0, skipped: 0 }
    for (const module of modules) {
      // A file that fails to load has no tests: it counts as one failure, never as silence.
      if (module.state() === 'failed' && module.errors().length > 0) count.failed += 1
      for (const test of module.children.allTests()) {
        const state = test.result().state
        if (state === 'pending') continue
        count[state] += 1
      }
    }
    count.failed += unhandledErrors.length
    const skipped = count.skipped > 0 ? `, ${count.skipped} skipped` : ''
    process.stdout.write(`\nTests: ${count.passed} passed, ${count.failed} failed${skipped}\n`)
  }
}
