/**
 * What committed reads tell, before any graph: which transactions committed, the version order of each key (Elle,
 * section 5: a list's longest read is the order of its appends), and the anomalies that need no cycle.
 */
import { type Findings, type Transaction } from './history.ts'

/** The version of a key that a transaction read: the first `length` elements, its own appends taken off. */
export interface Read {
  readonly transaction: number
  readonly list: readonly number[]
  readonly length: number
  appends: boolean
}

export class Key {
  readonly name: string
  readonly writers = new Map<number, number>()
  /**
   * Appends that their own transaction followed with another one to this key: no other transaction may read a list
   * ending there.
   */
  readonly intermediate = new Set<number>()
  /** For such a next one: the append that must come before it. */
  readonly previous = new Map<number, number>()
  readonly reads: Read[] = []
  longest: readonly number[] = []
  longestReader = -1
  /** Some read is no prefix of the longest. */
  incompatible = false
  /** Registration only: the latest append. */
  lastWriter = -1
  lastValue = 0
  /** One transaction's view of the key while its micro-operations are gone through. */
  viewer = -1
  own: number[] = []
  read: Read | undefined

  constructor(name: string) {
    this.name = name
  }

  view(transaction: number): this {
    if (this.viewer !== transaction) [this.viewer, this.own, this.read] = [transaction, [], undefined]
    return this
  }
}

export interface Observation {
  readonly keys: readonly Key[]
  readonly committed: Uint8Array
}

/** The first index below `length` at which the lists differ, or `length`. */
export function differ(a: readonly number[], b: readonly number[], length: number): number {
  let i = 0
  while (i < length && a[i] === b[i]) i++
  return i
}

const show = (list: readonly number[]): string =>
  list.length <= 12 ? `[${list.join(' ')}]` : `[${list.slice(0, 3).join(' ')} … ${list.slice(-6).join(' ')}]`

export class Observer {
  private readonly history: readonly Transaction[]
  private readonly findings: Findings
  private readonly keys = new Map<string, Key>()
  private readonly committed: Uint8Array
  /** Committed and not yet gone through; an info joins when a committed read shows one of its appends. */
  private readonly pending: number[] = []

  constructor(history: readonly Transaction[], findings: Findings) {
    this.history = history
    this.findings = findings
    this.committed = new Uint8Array(history.length)
  }

  observe(): Observation {
    this.history.forEach((t, i) => this.register(t, i))
    for (let i = 0; i < this.history.length; i++) if (this.at(i).type === 'ok') this.commit(i)
    for (let i = 0; i < this.pending.length; i++) this.follow(this.pending[i]!)
    const keys = [...this.keys.values()]
    for (const key of keys) this.judge(key)
    return { keys, committed: this.committed }
  }

  private at(i: number): Transaction {
    return this.history[i]!
  }

  private key(name: string): Key {
    let key = this.keys.get(name)
    if (key === undefined) this.keys.set(name, (key = new Key(name)))
    return key
  }

  private commit(i: number): void {
    this.committed[i] = 1
    this.pending.push(i)
  }

  private register(t: Transaction, i: number): void {
    for (const [f, k, v] of t.mops) {
      if (f !== 'append') continue
      const key = this.key(k)
      const other = key.writers.get(v)
      if (other !== undefined)
        this.findings.add(
          'duplicate-append',
          `T${this.at(other).id} and T${t.id} both append ${v} to ${k}: nothing can be inferred from it`,
          [this.at(other), t],
        )
      if (key.lastWriter === i) {
        key.intermediate.add(key.lastValue)
        key.previous.set(v, key.lastValue)
      }
      ;[key.lastWriter, key.lastValue] = [i, v]
      key.writers.set(v, i)
    }
  }

  private follow(i: number): void {
    for (const [f, k, v] of this.at(i).mops) {
      const key = this.key(k).view(i)
      if (f === 'append') {
        key.own.push(v)
        if (key.read !== undefined) key.read.appends = true
      } else if (v !== null && this.consistent(i, key, v)) this.take(i, key, v)
    }
  }

  /**
   * Elle's internal anomalies: within a transaction a read is the version it first saw plus its own appends, no
   * more and no less.
   */
  private consistent(i: number, key: Key, list: readonly number[]): boolean {
    const t = this.at(i)
    const length = list.length - key.own.length
    if (length < 0 || key.own.some((v, j) => list[length + j] !== v)) {
      this.findings.add('internal', `T${t.id} appended ${show(key.own)} to ${key.name} and then read ${show(list)}`, [
        t,
      ])
    } else if (key.read !== undefined && (length !== key.read.length || differ(key.read.list, list, length) < length)) {
      this.findings.add(
        'internal',
        `T${t.id} read ${key.name} first as ${show(key.read.list)}, then as ${show(list)}, with ${show(key.own)} appended by itself`,
        [t],
      )
    } else if (length > 0 && key.writers.get(list[length - 1]!) === i) {
      this.findings.add(
        'internal',
        `T${t.id} read ${show(list)} from ${key.name}, which has its own append ${list[length - 1]} before it was made`,
        [t],
      )
    } else return true
    return false
  }

  private take(i: number, key: Key, list: readonly number[]): void {
    if (key.read === undefined) {
      key.read = { transaction: i, list, length: list.length - key.own.length, appends: key.own.length > 0 }
      key.reads.push(key.read)
      this.intermediate(i, key, key.read)
    }
    // A prefix of what is known brings no news, so each read costs a comparison of numbers, and lookups are paid
    // once per version.
    const common = Math.min(list.length, key.longest.length)
    const same = differ(list, key.longest, common)
    if (same < common) {
      if (!key.incompatible) {
        this.findings.add(
          'incompatible-order',
          `T${this.at(key.longestReader).id} read ${show(key.longest)} and T${this.at(i).id} read ${show(list)} from ${key.name}: neither is a prefix of the other`,
          [this.at(key.longestReader), this.at(i)],
        )
      }
      key.incompatible = true
      this.duplicates(i, key, list)
    }
    for (let j = same; j < list.length; j++) this.seen(i, key, list[j]!)
    if (list.length > key.longest.length) [key.longest, key.longestReader] = [list, i]
  }

  /** G1b. */
  private intermediate(i: number, key: Key, { list, length }: Read): void {
    const last = list[length - 1]
    if (length === 0 || last === undefined || !key.intermediate.has(last)) return
    const writer = this.at(key.writers.get(last)!)
    this.findings.add(
      'G1b',
      `T${this.at(i).id} read ${show(list)} from ${key.name}: ${last} is an intermediate append of T${writer.id}, which appended more`,
      [writer, this.at(i)],
    )
  }

  /** G1a, and what nobody wrote; an info that is seen has happened. */
  private seen(i: number, key: Key, value: number): void {
    const writer = key.writers.get(value)
    if (writer === undefined)
      this.findings.add('unwritten-read', `T${this.at(i).id} read ${value} from ${key.name}, which nobody appended`, [
        this.at(i),
      ])
    else if (this.at(writer).type === 'fail')
      this.findings.add(
        'G1a',
        `T${this.at(i).id} read ${value} from ${key.name}, appended by T${this.at(writer).id}, which failed`,
        [this.at(writer), this.at(i)],
      )
    else if (this.committed[writer] === 0) this.commit(writer)
  }

  private duplicates(i: number, key: Key, list: readonly number[]): void {
    if (new Set(list).size === list.length) return
    const twice = list.find((v, j) => list.indexOf(v) < j)
    this.findings.add(
      'duplicate-elements',
      `T${this.at(i).id} read ${show(list)} from ${key.name}: ${twice} is there more than once`,
      [this.at(i)],
    )
  }

  private judge(key: Key): void {
    this.duplicates(key.longestReader, key, key.longest)
    for (let j = 1; j < key.longest.length; j++) this.dirtyUpdate(key, key.longest[j - 1]!, key.longest[j]!)
    this.ownOrder(key)
    this.lostUpdates(key)
  }

  /**
   * Within one transaction no edge and so no cycle can tell: its appends appear in its own order, none left out.
   * (Another's in between is G0.)
   */
  private ownOrder(key: Key): void {
    if (key.previous.size === 0) return
    const shown = new Set<number>()
    for (const v of key.longest) {
      shown.add(v)
      const previous = key.previous.get(v)
      if (previous === undefined || shown.has(previous)) continue
      const [writer, reader] = [this.at(key.writers.get(v)!), this.at(key.longestReader)]
      this.findings.add(
        'incompatible-order',
        `T${writer.id} appended ${previous} to ${key.name} before ${v}; T${reader.id} read ${show(key.longest)}`,
        [writer, reader],
      )
    }
  }

  /** Elle, dirty update: a committed append builds on a failed one, which therefore cannot be undone. */
  private dirtyUpdate(key: Key, before: number, value: number): void {
    const [failed, writer] = [key.writers.get(before), key.writers.get(value)]
    if (failed === undefined || writer === undefined || this.at(failed).type !== 'fail' || this.committed[writer] === 0)
      return
    this.findings.add(
      'dirty-update',
      `T${this.at(writer).id} appended ${value} to ${key.name} on top of ${before} of T${this.at(failed).id}, which failed`,
      [this.at(failed), this.at(writer)],
    )
  }

  /** Found without knowing the order of the two appends, so also when neither was ever read. */
  private lostUpdates(key: Key): void {
    const first = new Map<number, Read>()
    for (const read of key.reads) {
      if (!read.appends) continue
      const other = first.get(read.length)
      if (other === undefined) first.set(read.length, read)
      else if (differ(read.list, other.list, read.length) === read.length) {
        const [a, b] = [this.at(other.transaction), this.at(read.transaction)]
        this.findings.add(
          'lost-update',
          `T${a.id} and T${b.id} both read ${show(read.list.slice(0, read.length))} from ${key.name} and both appended to it`,
          [a, b],
        )
      }
    }
  }
}
