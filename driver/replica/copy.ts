/**
 * Moving tables from one server to another as they stand in one snapshot: COPY out of the one is COPY into the
 * other, as text under settings that both share, so that it does not matter which versions they are. At most a few
 * socket buffers are in memory, however large the table is.
 */
import pg from 'pg'
import { within } from '../runtime.ts'

/**
 * Those of the functions in schema/, for values as text; and no deadline of the server's own, since a table may
 * take hours.
 */
const SETTINGS =
  '-c datestyle=ISO,MDY -c intervalstyle=postgres -c bytea_output=hex -c extra_float_digits=1 ' +
  '-c quote_all_identifiers=off -c array_nulls=on -c timezone=UTC -c lc_monetary=C -c xmloption=content ' +
  '-c search_path=pg_catalog -c standard_conforming_strings=on ' +
  '-c synchronous_commit=on -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 ' +
  '-c idle_session_timeout=0'
/** Enough for one message; a row that is larger is a message of its own. */
const MESSAGE_BYTES = 65_536
/** A copy that moves nothing for so long is given up: one of the servers is frozen, or somebody locked the table. */
const STALL_MS = 30_000

/** A connection for bulk work. writing: triggers and foreign keys are off, as in an accept. */
export async function bulkConnection(config: pg.ClientConfig, writing: boolean): Promise<pg.Client> {
  const client = new pg.Client({
    ...config,
    keepAlive: true,
    application_name: 'pg-quorum clone',
    options: `${config.options ?? ''} ${SETTINGS}${writing ? ' -c session_replication_role=replica' : ''}`.trim(),
  })
  client.on('error', () => undefined) // whoever waits for a query is told by that query
  await client.connect()
  await client.query(
    "SELECT set_config('transaction_timeout', '0', false) FROM pg_settings WHERE name = 'transaction_timeout'",
  ) // PostgreSQL 17 and above
  return client
}

/** What pg has, but its types do not show. */
interface Wire {
  readonly stream: {
    readonly writableNeedDrain: boolean
    pause(): void
    resume(): void
    once(event: 'drain', fn: () => void): void
  }
  query(text: string): void
  sendCopyFromChunk(chunk: Buffer): void
  endCopyFrom(): void
  sendCopyFail(why: string): void
}

/** pg's Submittable for COPY: what it must answer to, and a promise of its end. */
abstract class Copying {
  readonly done: Promise<number>
  #resolve: (rows: number) => void = () => undefined
  #reject: (error: unknown) => void = () => undefined
  #rows = 0
  readonly #text: string
  protected wire: Wire | undefined

  constructor(text: string) {
    this.#text = text
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    this.done.catch(() => undefined)
  }
  submit(wire: Wire): void {
    this.wire = wire
    wire.query(this.#text)
  }
  handleRowDescription(): void {
    /* COPY has none */
  }
  handleCommandComplete(message: { text: string }): void {
    this.#rows = Number(message.text.split(' ')[1] ?? 0)
  }
  handleReadyForQuery(): void {
    this.#resolve(this.#rows)
  }
  handleError(error: unknown): void {
    this.#reject(error)
  }
}

class In extends Copying {
  #ready: () => void = () => undefined
  readonly ready = new Promise<void>((resolve) => (this.#ready = resolve))
  handleCopyInResponse(): void {
    this.#ready()
  }
  /** false: the socket has enough for now; `again` is called when it wants more. */
  write(chunk: Buffer, again: () => void): boolean {
    this.wire?.sendCopyFromChunk(chunk)
    if (!this.wire?.stream.writableNeedDrain) return true
    this.wire.stream.once('drain', again)
    return false
  }
  end(): void {
    this.wire?.endCopyFrom()
  }
  fail(why: string): void {
    this.wire?.sendCopyFail(why)
  }
}

class Out extends Copying {
  readonly #into: In
  readonly #moved: (bytes: number) => void
  /** pg's buffers are used again: what waits to be sent is a copy. */
  #staged = Buffer.allocUnsafe(MESSAGE_BYTES)
  #size = 0

  constructor(text: string, into: In, moved: (bytes: number) => void) {
    super(text)
    this.#into = into
    this.#moved = moved
  }
  handleCopyInResponse(): void {
    this.fail()
  }
  handleCopyData({ chunk }: { chunk: Buffer }): void {
    if (this.#size + chunk.length > MESSAGE_BYTES) this.flush()
    if (chunk.length > MESSAGE_BYTES) return this.#send(Buffer.from(chunk))
    chunk.copy(this.#staged, this.#size)
    this.#size += chunk.length
  }
  fail(): void {
    this.wire?.sendCopyFail('this side is read')
  }
  flush(): void {
    if (this.#size === 0) return
    this.#send(this.#staged.subarray(0, this.#size))
    this.#staged = Buffer.allocUnsafe(MESSAGE_BYTES)
    this.#size = 0
  }
  #send(chunk: Buffer): void {
    this.#moved(chunk.length)
    if (!this.#into.write(chunk, () => this.wire?.stream.resume())) this.wire?.stream.pause()
  }
}

const start = <T extends Copying>(client: pg.Client, copying: T): T => {
  client.query(copying as unknown as pg.Submittable)
  return copying
}

/**
 * Runs `COPY … TO STDOUT` here and `COPY … FROM STDIN` there; how many rows. It is committed or not with the
 * target's transaction.
 * @throws the error of either side; after that both connections are of no more use.
 */
export async function copy(
  source: pg.Client,
  out: string,
  target: pg.Client,
  into: string,
  moved: (bytes: number) => void,
): Promise<number> {
  let bytes = 0
  const writing = start(target, new In(into))
  await Promise.race([writing.ready, writing.done])
  const reading = start(source, new Out(out, writing, (n) => moved(((bytes += n), n))))
  try {
    // the target ends first only with an error
    await unlessStalled(Promise.race([reading.done, writing.done]), () => bytes)
    reading.flush()
  } catch (error) {
    writing.fail('the other side stopped')
    throw error
  }
  writing.end()
  return writing.done
}

async function unlessStalled<T>(work: Promise<T>, progress: () => number): Promise<T> {
  for (;;) {
    const before = progress()
    const stalled = Symbol()
    const result: T | symbol = await within<T, symbol>(STALL_MS, work, () => stalled)
    if (result !== stalled) return result as T
    if (progress() === before) throw new Error(`nothing moved for ${STALL_MS / 1000} s`)
  }
}

/** end() would wait for a server that may be frozen, or for a COPY that nobody wants any more. */
export function cutOff(client: pg.Client): void {
  ;(client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy()
}
