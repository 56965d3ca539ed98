import { setTimeout as sleep } from 'node:timers/promises'
import type { CrashWorld } from './crash-world.ts'

type Fault = 'edge' | 'backend' | 'both' | 'freeze' | 'cut'

/** How often each happens, out of 20. */
const SHARES: Readonly<Record<Fault, number>> = { edge: 6, backend: 7, both: 4, freeze: 1, cut: 2 }
/** Longer than a lease lives and is waited for, so that an isolate wakes up holding a dead one. */
const FREEZE_MS = 3_000
/** Of look-ups by an alarm: how many its workerd does not survive. */
const LOOKUP_SHARE = 0.03

/** Does harm to a world, one thing at a time, and counts it. */
export class CrashFaults {
  readonly counts = { kills: 0, insideAlarms: 0, freezes: 0, cuts: 0 }
  readonly #world: CrashWorld
  readonly #random: () => number
  #busy = false

  constructor(world: CrashWorld, random: () => number) {
    this.#world = world
    this.#random = random
    // While clients come and go, nobody but the tenant objects' alarms looks requests up.
    world.link.onLookup = () => {
      if (!this.#busy && random() < LOOKUP_SHARE) void this.#killInsideAlarm()
    }
  }

  /** Resolves when nothing is harmed any more and everything is up. */
  async stop(): Promise<void> {
    this.#world.link.onLookup = () => undefined
    while (this.#busy) await sleep(10)
  }

  /** Resolves when everything is up again. */
  async strike(): Promise<void> {
    while (this.#busy) await sleep(10)
    this.#busy = true
    await this.#harm(this.#draw())
    this.#busy = false
  }

  #draw(): Fault {
    let place = this.#random() * 20
    for (const [fault, share] of Object.entries(SHARES) as [Fault, number][]) {
      place -= share
      if (place < 0) return fault
    }
    return 'edge'
  }

  async #harm(fault: Fault): Promise<void> {
    const { edge, backend, link } = this.#world
    switch (fault) {
      case 'edge':
      case 'backend':
        this.counts.kills += 1
        return await this.#world[fault].crash()
      case 'both':
        this.counts.kills += 2
        await Promise.all([edge.crash(), backend.crash()])
        return
      case 'freeze':
        this.counts.freezes += 1
        return await edge.freeze(FREEZE_MS)
      case 'cut':
        this.counts.cuts += 1
        return link.cut()
      default:
        return fault satisfies never
    }
  }

  async #killInsideAlarm(): Promise<void> {
    this.#busy = true
    this.counts.kills += 1
    this.counts.insideAlarms += 1
    await this.#world.edge.crash()
    this.#busy = false
  }
}
