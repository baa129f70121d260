/** PostgreSQL's protocol, as far as the proxy must know it: where a message ends, and which statement it belongs to. */
import type { Direction } from './proxy.ts'

/** `type` is '' for what has none: startup packets, the answer to SSLRequest, TLS. */
export interface Message {
  type: string
  bytes: Buffer
  arrived: number
}

const SSL_REQUEST = 80877103,
  GSS_REQUEST = 80877104
const codeOf = (b: Buffer): number => (b.length < 8 ? 0 : b.readInt32BE(4))
const cString = (b: Buffer, from: number): [text: string, next: number] => {
  const end = b.indexOf(0, from)
  return [b.toString('utf8', from, end), end + 1]
}

/** What a CommandComplete says; nothing for other messages. */
export const commandTag = ({ type, bytes }: Message): string | undefined =>
  type === 'C' ? cString(bytes, 5)[0] : undefined

/** Which statement a message belongs to. Everything up to a ReadyForQuery answers the oldest Query or Sync. */
export class Statements {
  readonly #prepared = new Map<string, string>()
  readonly #waiting: { text: string }[] = []
  #open: { text: string } | undefined

  sent({ type, bytes }: Message): { text: string } {
    // The startup packet, too, is answered up to a ReadyForQuery; a cancel or a wish for TLS is not.
    if (type === '') return codeOf(bytes) >> 16 === 3 ? this.#push({ text: '' }) : { text: '' }
    if (type === 'Q') return this.#push({ text: cString(bytes, 5)[0] })
    const open = (this.#open ??= { text: '' })
    if (type === 'P') {
      const [name, next] = cString(bytes, 5)
      this.#prepared.set(name, (open.text = cString(bytes, next)[0]))
    }
    if (type === 'B') open.text = this.#prepared.get(cString(bytes, cString(bytes, 5)[1])[0]) ?? ''
    if (type === 'S' || type === 'F') {
      this.#open = undefined
      return this.#push(open)
    }
    return open
  }

  answered({ type }: Message): { text: string } {
    const statement = this.#waiting[0] ?? this.#open ?? { text: '' }
    if (type === 'Z') this.#waiting.shift()
    return statement
  }

  #push(statement: { text: string }): { text: string } {
    this.#waiting.push(statement)
    return statement
  }
}

export class Frames {
  /** What the next bytes of each direction are. */
  readonly #from: Record<Direction, 'startup' | 'ssl-answer' | 'messages' | 'opaque'> = {
    'to-server': 'startup',
    'to-client': 'messages',
  }

  /** The first whole message of what has come, or how many bytes there must be before it is worth asking again. */
  next(direction: Direction, b: Buffer): Message | number {
    const message = (type: string, length: number): Message | number =>
      b.length < length ? length : { type, bytes: b.subarray(0, length), arrived: performance.now() }
    const kind = this.#from[direction]
    if (b.length === 0) return 1
    if (kind === 'opaque') return message('', b.length)
    if (kind === 'ssl-answer') {
      this.#from[direction] = b[0] === 0x53 || b[0] === 0x47 ? 'opaque' : 'messages'
      if (this.#from[direction] === 'opaque') this.#from['to-server'] = 'opaque'
      return message('', 1)
    }
    if (kind === 'messages') return b.length < 5 ? 5 : message(String.fromCharCode(b[0]!), 1 + b.readInt32BE(1))
    const startup = b.length < 8 ? 8 : message('', b.readInt32BE(0))
    if (typeof startup === 'number') return startup
    if (codeOf(b) === SSL_REQUEST || codeOf(b) === GSS_REQUEST) this.#from['to-client'] = 'ssl-answer'
    else this.#from['to-server'] = 'messages'
    return startup
  }
}
