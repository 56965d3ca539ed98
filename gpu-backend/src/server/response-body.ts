import type { ServerResponse } from 'node:http'

/**
 * The way out to one client. Written on Node's response itself: headers and each event leave with
 * the call that writes them, a full socket is felt at once, and a connection can be broken off.
 */
export class ResponseBody {
  readonly #outgoing: ServerResponse
  readonly #onClose: (() => void)[] = []
  #closedEarly = false
  #draining: Promise<void> | null = null

  constructor(outgoing: ServerResponse) {
    this.#outgoing = outgoing
    outgoing.once('close', () => {
      this.#closedEarly = !outgoing.writableFinished
      for (const listener of this.#onClose) listener()
    })
    // A reset while writing shows as an error first; the close that follows says all there is.
    outgoing.on('error', () => undefined)
    if (outgoing.destroyed) this.#closedEarly = true
  }

  /** The client, or the network, has gone before the end was written. */
  get closedEarly(): boolean {
    return this.#closedEarly
  }

  get headersSent(): boolean {
    return this.#outgoing.headersSent
  }

  /** The client reads more slowly than is written. */
  get backedUp(): boolean {
    return this.#draining !== null
  }

  /** Called once when the connection closes, early or not. */
  onClose(listener: () => void): void {
    this.#onClose.push(listener)
  }

  head(status: number, headers: Readonly<Record<string, string>>): void {
    this.#outgoing.writeHead(status, headers)
  }

  /** Writes and, if the client cannot keep up, waits until it can or has gone. */
  async write(text: string): Promise<void> {
    if (this.#closedEarly) return
    if (!this.#outgoing.write(text)) this.#draining ??= this.#drained()
    if (this.#draining !== null) await this.#draining
  }

  end(text: string): void {
    if (!this.#closedEarly) this.#outgoing.end(text)
  }

  /** Ends the connection in a way nobody can take for the end of the answer. */
  breakOff(): void {
    this.#outgoing.destroy()
  }

  async #drained(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#outgoing.once('drain', resolve)
    this.#outgoing.once('close', resolve)
    await promise
    this.#outgoing.off('drain', resolve)
    this.#outgoing.off('close', resolve)
    this.#draining = null
  }
}
