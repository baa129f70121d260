/**
 * Whatever has a submit(): pg's Query, Cursor, QueryStream, COPY in and out. A Relay stands between it and pg's
 * client. In a transaction of the user's it only watches for the end. Outside one (`hold`) it keeps the last word
 * back until the implicit transaction has ended: what was streamed is told to be complete once it is committed, and
 * fails where pg's would fail.
 */
import type pg from 'pg'

type Handler =
  | 'handleRowDescription'
  | 'handleDataRow'
  | 'handlePortalSuspended'
  | 'handleEmptyQuery'
  | 'handleCopyInResponse'
  | 'handleCopyData'
type Handled = Record<
  Handler | 'handleCommandComplete' | 'handleReadyForQuery' | 'handleError',
  ((...args: unknown[]) => void) | undefined
>
type Inner = pg.Submittable &
  Handled & {
    text?: string
    values?: unknown[]
    name?: string
    callback?: unknown
    binary?: boolean
    destroyed?: boolean
    _result?: { _types?: unknown }
    cursor?: { text?: string; values?: unknown[] }
  }
/** What it may ask of a connection whose answer has already been given. */
const TALK = new Set<string | symbol>(['sync', 'close', 'flush', 'execute', 'sendCopyFail', 'end'])

export class Relay implements pg.Submittable {
  /** pg's client puts its query_timeout here. */
  callback: ((error?: Error) => void) | undefined
  hold = false
  readonly #inner: Inner
  #connection: pg.Connection | undefined
  #complete: unknown[] | undefined
  #synced = false
  #told = false
  #over = false
  #ready: () => void = () => undefined
  #failed: (error: Error) => void = () => undefined
  readonly #ended = new Promise<void>((resolve, reject) => {
    this.#ready = resolve
    this.#failed = reject
  })

  constructor(inner: pg.Submittable) {
    this.#inner = inner as Inner
    this.#ended.catch(() => undefined)
  }

  get text(): string | undefined {
    return this.#inner.text ?? this.#inner.cursor?.text
  }
  get values(): unknown[] | undefined {
    return this.#inner.values ?? this.#inner.cursor?.values
  }
  get name(): string | undefined {
    return this.#inner.name
  }
  get _result(): Inner['_result'] {
    return this.#inner._result
  }
  get binary(): boolean | undefined {
    return this.#inner.binary
  }
  set binary(value: boolean | undefined) {
    if (value !== undefined) this.#inner.binary = value
  }
  /** A stream that was destroyed before its turn came. */
  get gone(): boolean {
    return this.#inner.destroyed === true && !this.#connection
  }
  /** The server is ready again; rejects with what it said. */
  get ended(): Promise<void> {
    return this.#ended
  }

  submit(connection: pg.Connection): void {
    this.#connection = this.#facade(connection)
    return this.#inner.submit(this.#connection)
  }

  #facade(connection: pg.Connection): pg.Connection {
    return new Proxy(connection, {
      get: (target, key) => {
        if (this.#over && TALK.has(key)) return () => undefined
        if (key === 'sync' || key === 'query') this.#synced = this.#synced || key === 'query'
        const value: unknown = Reflect.get(target, key, target)
        if (typeof value !== 'function') return value
        return (...args: unknown[]): unknown => {
          if (key === 'sync') this.#synced = true
          return (value as (...args: unknown[]) => unknown).apply(target, args)
        }
      },
    })
  }

  #pass(handler: keyof Handled, args: unknown[]): void {
    this.#inner[handler]?.(
      ...args.map((arg, i) =>
        i === args.length - 1 && arg && typeof arg === 'object' && 'stream' in arg ? this.#connection : arg,
      ),
    )
  }
  handleRowDescription(...args: unknown[]): void {
    this.#pass('handleRowDescription', args)
  }
  handleDataRow(...args: unknown[]): void {
    this.#pass('handleDataRow', args)
  }
  handlePortalSuspended(...args: unknown[]): void {
    this.#pass('handlePortalSuspended', args)
  }
  handleEmptyQuery(...args: unknown[]): void {
    this.#pass('handleEmptyQuery', args)
  }
  handleCopyInResponse(...args: unknown[]): void {
    this.#pass('handleCopyInResponse', args)
  }
  handleCopyData(...args: unknown[]): void {
    this.#pass('handleCopyData', args)
  }

  handleCommandComplete(...args: unknown[]): void {
    if (!this.hold) return this.#pass('handleCommandComplete', args)
    // several statements in one text: only the last word is kept
    if (this.#complete) this.#pass('handleCommandComplete', this.#complete)
    this.#complete = args
    if (!this.#synced) this.#connection?.sync() // a cursor would, once it had heard
  }

  handleReadyForQuery(): void {
    this.callback?.()
    if (!this.hold) this.tell()
    this.#ready()
  }

  handleError(error: Error, ..._: unknown[]): void {
    this.callback?.()
    this.fail(error)
    this.#failed(error)
  }

  /** It is done, and nothing can change that any more. */
  tell(): void {
    if (this.#told) return
    this.#told = true
    this.#over = this.hold
    if (this.#complete) this.#pass('handleCommandComplete', this.#complete)
    this.#inner.handleReadyForQuery?.(this.#connection)
  }

  fail(error: Error): void {
    if (this.#told) return
    this.#told = true
    this.#over = this.#complete !== undefined
    this.#inner.handleError?.(error, this.#connection)
  }
}
