/**
 * Facts about one replica, or a few, that the protocol rests on. Each is played on the real and on the simulated
 * one; the notes must be equal.
 */
import type { Lock, LockRequest } from '../../driver/protocol/locks.ts'
import { baseOf, writesOf } from '../../driver/protocol/changeset.ts'
import { parseLocks } from '../../driver/protocol/locks.ts'
import { OWNER, type Changeset, type Session } from '../../driver/replica/replica.ts'
import type { Harness, Notes, User } from './harness.ts'

const OWNER_NAME = '0123456789ab'
let sequence = 0
const prefix = (): string => `quorum_c_1_${OWNER_NAME}_${(++sequence).toString(36)}_`
const of = (...locks: Lock[]): LockRequest[] => parseLocks(locks)

/** Works and seals on a user's connection; the transaction stays open. */
async function seal(user: User, locks: Lock[], work: () => Promise<unknown>): Promise<Changeset> {
  const base = await user.base(of(...locks))
  await user.begin()
  await user.cover('infer')
  await work()
  const sealed = await user.seal(prefix(), base, true, true, 500, 1e6, 2)
  if (!sealed.gid || !sealed.body) throw new Error(`not sealed: ${sealed.state}`)
  return { gid: sealed.gid, body: sealed.body }
}
const change = (user: User, k: string, v: string): Promise<Changeset> =>
  seal(user, [`lists/${k}`], () => user.append(k, v))
/** Sealed, and given up on the lead. */
async function lost(user: User, k: string, v: string): Promise<Changeset> {
  const c = await change(user, k, v)
  await user.rollback()
  return c
}
async function on<T>(h: Harness, member: number, work: (s: Session) => Promise<T>): Promise<T> {
  const session = await h.replicas[member]!.open()
  try {
    return await work(session)
  } finally {
    session.release()
    await h.settle(20)
  }
}
const accept = (h: Harness, member: number, c: Changeset, ballot = OWNER): Promise<unknown> =>
  on(h, member, (s) => s.accept(c, ballot))
const finish = (h: Harness, member: number, c: Changeset, d: 'commit' | 'abort'): Promise<unknown> =>
  on(h, member, (s) => s.finish(c.gid, d))
const by = (number: number, name = 'x'): { number: number; by: string } => ({ number, by: name })

export const SCENARIOS: Record<string, (h: Harness, n: Notes) => Promise<void>> = {
  async 'accept, commit, and again'(h, n) {
    const c = await lost(await h.user(0), 'a', '1')
    const r = h.replicas[1]!
    await n.tell('before', r.evidence(c.gid))
    await n.tell('accept', accept(h, 1, c))
    await n.tell('prepared', r.evidence(c.gid))
    await n.tell('present', r.present([c.gid, 'quorum_none']))
    await n.tell('accept while prepared', accept(h, 1, c))
    await n.tell('commit', finish(h, 1, c, 'commit'))
    await n.tell('committed', r.evidence(c.gid))
    await n.tell('commit again', finish(h, 1, c, 'commit'))
    await n.tell('abort after commit', finish(h, 1, c, 'abort'))
    await n.tell('accept after commit', accept(h, 1, c))
    await n.tell('row', (await h.user(1)).read('a'))
    await n.tell('row elsewhere', (await h.user(2)).read('a'))
    await n.tell('promise after commit', r.promise(c.gid, by(5), null))
  },

  async abort(h, n) {
    const c = await lost(await h.user(0), 'a', '1')
    await n.tell('accept', accept(h, 1, c))
    await n.tell('abort', finish(h, 1, c, 'abort'))
    await n.tell('after', h.replicas[1]!.evidence(c.gid))
    await n.tell('abort again', finish(h, 1, c, 'abort'))
    await n.tell('commit of what is not there', finish(h, 1, c, 'commit'))
    await n.tell('row', (await h.user(1)).read('a'))
  },

  async promises(h, n) {
    const c = await lost(await h.user(0), 'a', '1')
    const r = h.replicas[1]!
    await n.tell('first', r.promise(c.gid, by(10), null))
    await n.tell('the owner comes too late', accept(h, 1, c))
    await n.tell('lower', r.promise(c.gid, by(9), null))
    await n.tell('the same again', r.promise(c.gid, by(10), null))
    await n.tell('same number, smaller name', r.promise(c.gid, by(10, 'a'), null))
    await n.tell('same number, greater name', r.promise(c.gid, by(10, 'z'), null))
    await n.tell('commit without a copy', r.promise(c.gid, by(11), 'commit'))
    await n.tell('a resolver’s copy at a lower ballot', accept(h, 1, c, by(9)))
    await n.tell('a resolver’s copy', accept(h, 1, c, by(12)))
    await n.tell('promise while prepared', r.promise(c.gid, by(12), null))
    await n.tell('accepted', r.promise(c.gid, by(12), 'commit'))
    await n.tell('a higher promise keeps what was accepted', r.promise(c.gid, by(20), null))
    await n.tell('acceptance at an overtaken ballot', r.promise(c.gid, by(12), 'commit'))
    await n.tell('evidence', r.evidence(c.gid))
    await n.tell('abort accepted elsewhere', h.replicas[2]!.promise(c.gid, by(21), 'abort'))
    await n.tell('evidence there', h.replicas[2]!.evidence(c.gid))
  },

  async 'promise and the lead’s open session'(h, n) {
    const owner = await h.replicas[0]!.open()
    await owner.liveness(OWNER_NAME)
    const user = await h.user(0)
    const c = await change(user, 'a', '1')
    await n.tell('sealed here, owner alive', h.replicas[0]!.promise(c.gid, by(5), null))
    await n.tell('its transaction is still open', user.read('a'))
    owner.release()
    await h.settle(100)
    await n.tell('sealed here, owner gone', h.replicas[0]!.promise(c.gid, by(5), null))
    await h.settle(200)
    await n.tell(
      'its session was ended',
      user.read('a').then(
        () => 'alive',
        () => 'ended',
      ),
    )
    await n.tell('promise', h.replicas[0]!.promise(c.gid, by(5), null))
  },

  async 'behind, ahead, superseded'(h, n) {
    const user = await h.user(0)
    const first = await change(user, 'a', '1')
    await n.tell('the lead commits', user.commit())
    const second = await change(user, 'a', '2')
    await n.tell('the lead commits', user.commit())
    const rival = await lost(await h.user(1), 'a', '9')
    await n.tell('second before first', accept(h, 1, second))
    await n.tell('first', accept(h, 1, first))
    await n.tell('commit', finish(h, 1, first, 'commit'))
    await n.tell('rival on the first’s base', accept(h, 1, rival))
    await n.tell('superseded', h.replicas[1]!.evidence(rival.gid))
    await n.tell('its promise', h.replicas[1]!.promise(rival.gid, by(3), null))
    await n.tell('its abort', h.replicas[1]!.promise(rival.gid, by(3), 'abort'))
    await n.tell('second', accept(h, 1, second))
    await n.tell('commit', finish(h, 1, second, 'commit'))
    await n.tell('rows', (await h.user(1)).read('a'))
    await n.tell('beyond', h.replicas[0]!.beyond(await h.replicas[2]!.versions(), 10))
    await n.tell('beyond, at most one', h.replicas[0]!.beyond([], 1))
    await n.tell(
      'replay',
      h.replicas[2]!.replay(
        await h.replicas[0]!.changesets([first.gid, second.gid]).then((cs) =>
          [first, second].map((x) => cs.find((y) => y.gid === x.gid)!),
        ),
      ),
    )
    await n.tell('replay again', h.replicas[2]!.replay([second]))
    await n.tell('row', (await h.user(2)).read('a'))
    await n.tell('nothing beyond', h.replicas[0]!.beyond(await h.replicas[2]!.versions(), 10))
  },

  async 'bases and read marks'(h, n) {
    const user = await h.user(0)
    await n.tell('nothing written', user.base(of('lists/a', { row: 'lists/b', mode: 'shared' }, '@x')))
    await n.tell('the whole', user.base(of('lists')))
    await n.tell('everything', user.base(of('*')))
    const c = await seal(user, ['lists/a', { row: 'lists/b', mode: 'shared' }, '@x'], () => user.append('a', '1'))
    n.add('changeset', baseOf(c.body))
    n.add('writes', writesOf(c.body))
    await n.tell('commit', user.commit())
    await n.tell('a written', user.base(of('lists/a', '@x')))
    await n.tell('b read, for a reader', user.base(of({ row: 'lists/b', mode: 'shared' })))
    await n.tell('b read, for a writer', user.base(of('lists/b')))
    await n.tell('the whole', user.base(of('lists')))
    const blind = await lost(await h.user(1), 'b', '1')
    await n.tell('a writer that did not see the mark', accept(h, 0, blind))
    await n.tell('superseded by the mark', h.replicas[0]!.evidence(blind.gid))
    await n.tell('against its base', h.replicas[0]!.against(baseOf(blind.body)))
    await n.tell('where the reader is not known', accept(h, 2, blind))
    await n.tell('the reader there', accept(h, 2, c))
  },

  async 'whole tables and rows'(h, n) {
    const user = await h.user(0)
    const whole = await seal(user, ['lists'], () => user.append('a', '1'))
    n.add('writes of the whole', writesOf(whole.body))
    await n.tell('commit', user.commit())
    await n.tell('a row now rests on it', user.base(of('lists/b')))
    const reading = await seal(user, [{ table: 'lists', mode: 'shared' }], async () => {
      await user.read('a')
      await user.insertOnce('k', 'v')
    })
    n.add('a whole that was only read counts as written', writesOf(reading.body))
    await user.rollback()
    const everything = await seal(user, ['*'], () => user.append('b', '1'))
    n.add('everything', writesOf(everything.body))
    await n.tell('commit', user.commit())
    await n.tell('after', user.base(of('lists/b')))
  },

  async seal(h, n) {
    const user = await h.user(0)
    const other = await h.user(0)
    const base = await user.base(of('lists/a'))
    await user.begin()
    await user.cover('infer')
    await n.tell('nothing written', user.seal(prefix(), base, true, true, 500, 1e6, 2))
    await n.tell('rollback', user.rollback())
    await user.begin()
    await user.cover('infer')
    await user.append('a', '1')
    const overtaken = await change(other, 'b', '1')
    n.add('sealed', { gid: overtaken.gid })
    await n.tell('commit', other.commit())
    await n.tell(
      'its row did not move',
      user.seal(prefix(), base, true, true, 500, 1e6, 2).then((s) => s.state),
    )
    await n.tell('commit', user.commit())
    const stale = await user.base(of({ row: 'lists/a', mode: 'shared' }))
    await user.begin()
    await user.cover('infer')
    await user.append('c', '1')
    await change(other, 'a', '2')
    await n.tell('commit', other.commit())
    await n.tell('what it read moved', user.seal(prefix(), stale, true, true, 500, 1e6, 2))
    await n.tell('rollback', user.rollback())
    await user.begin()
    await user.cover('infer')
    await user.read('a')
    await user.insertOnce('k', 'v')
    await n.tell('a table read and not named', user.seal(prefix(), [], true, true, 500, 1e6, 2))
    await n.tell('rollback', user.rollback())
    await user.begin()
    await n.tell('a write without cover', user.append('a', '3'))
    await n.tell('after an error', user.read('a'))
    n.add('status', user.status())
    await n.tell('COMMIT of a failed transaction', user.commit())
    await user.begin()
    await user.cover(
      (
        await h.replicas[0]!.open().then(async (s) => {
          const o = await s.hold(of('lists/a'), 100)
          await s.letGo()
          s.release()
          return o
        })
      ).granules,
    )
    await n.tell('a covered write', user.append('a', '4'))
    await n.tell('an uncovered write', user.append('zz', '4'))
    await n.tell('rollback', user.rollback())
  },

  async 'repeatable read'(h, n) {
    const user = await h.user(0)
    const other = await h.user(0)
    await change(other, 'a', '1')
    await other.commit()
    await user.begin('repeatable read')
    await user.cover('infer')
    const base = await user.base(of({ row: 'lists/a', mode: 'shared' }))
    await n.tell('reads', user.read('a'))
    await change(other, 'a', '2')
    await other.commit()
    await n.tell('reads the same', user.read('a'))
    await user.append('b', '1')
    const sealed = await user.seal(prefix(), base, true, false, 500, 1e6, 2)
    n.add('sealed on its old snapshot', sealed.state)
    await n.tell('another session sees it', h.replicas[0]!.against(baseOf(sealed.body ?? '')))
    await user.rollback()
    await user.begin('repeatable read')
    await user.cover('infer')
    await user.base(of('lists/a'))
    await change(other, 'a', '3')
    await other.commit()
    await n.tell('writes what has moved', user.append('a', '9'))
    await user.rollback()
    await user.beginRead()
    const seen = await user.base(of({ table: 'lists', mode: 'shared' }))
    await n.tell('a read-only snapshot', user.read('a'))
    await n.tell('ends, nothing missed', user.endRead(seen))
    n.add('status', user.status())
    await user.beginRead()
    await user.base(of({ name: 'x', mode: 'shared' }))
    await user.read('a')
    await n.tell('ends, and names what was not watched', user.endRead([]))
  },

  async guards(h, n) {
    const r = h.replicas[0]!
    const [a, b, c] = [await r.open(), await r.open(), await r.open()]
    await n.tell('exclusive', a.lock(of('lists/a'), null))
    await n.tell('second', b.lock(of('lists/a'), null))
    await n.tell('another row', b.lock(of('lists/b'), null))
    await n.tell('the table under rows', c.lock(of('lists'), null))
    await n.tell('waits in vain', c.lock(of('lists/a'), 150))
    a.release()
    b.release()
    c.release(true)
    await h.settle(100)
    const d = await r.open()
    const e = await r.open()
    await n.tell('shared', d.lock(of({ row: 'lists/a', mode: 'shared' }), null))
    await n.tell('shared too', e.lock(of({ row: 'lists/a', mode: 'shared' }), null))
    const f = await r.open()
    await n.tell('exclusive under shared', f.lock(of('lists/a'), null))
    await n.tell('an unknown table', f.lock(of('nonsense/1'), null))
    d.release()
    e.release()
    await h.settle(50)
    await n.tell('free again', f.lock(of('lists/a'), 500))
    f.release(true)
  },

  async 'A is held through PREPARE, and waited for'(h, n) {
    const c = await lost(await h.user(0), 'a', '1')
    await n.tell('accept', accept(h, 1, c))
    const s = await h.replicas[1]!.open()
    await n.tell('a look at it', s.hold(of({ row: 'lists/a', mode: 'shared' }), 100))
    await s.letGo()
    await n.tell('at another row', s.hold(of({ row: 'lists/b', mode: 'shared' }), 100))
    await s.letGo()
    await n.tell('at the whole', s.hold(of({ table: 'lists', mode: 'shared' }), 100))
    await s.letGo()
    await n.tell(
      'pulse',
      s.pulse().then((p) => p.doubt),
    )
    const rival = await lost(await h.user(2), 'a', '2')
    await n.tell('a rival', accept(h, 1, rival))
    await n.tell('commit', finish(h, 1, c, 'commit'))
    await n.tell('a look now', s.hold(of({ row: 'lists/a', mode: 'shared' }), 100))
    const third = await change(await h.user(1), 'b', '1')
    n.add('others go on beside the look', { gid: third.gid })
    const blocked = await h.user(1)
    await n.tell('a writer waits for the look', change(blocked, 'a', '3'))
    await s.letGo()
    s.release()
  },

  async 'a user’s open row'(h, n) {
    const user = await h.user(1)
    await user.begin()
    await user.cover('infer')
    await user.append('a', '7')
    const c = await lost(await h.user(0), 'a', '1')
    await n.tell('accept waits for it, in vain', accept(h, 1, c))
    await user.rollback()
    await n.tell('accept', accept(h, 1, c))
  },

  async 'what must not pass'(h, n) {
    const c = await lost(await h.user(0), 'a', '1')
    await n.tell(
      'another body under the gid',
      accept(h, 1, { gid: c.gid, body: c.body.replace('"epoch"', '"epoch" ') }),
    )
    const user = await h.user(0)
    await change(user, 'b', '1')
    await user.commit()
    await h.tamper(1, 'c', '5')
    const d = await lost(await h.user(0), 'c', '1')
    await n.tell(
      'a row that should not be there',
      accept(h, 1, d).then((r) => (r as { answer: string }).answer),
    )
    const first = await seal(await h.user(0), [], async () => undefined).catch((e: Error) => e.message)
    n.add('nothing to seal', first)
    const one = await h.user(0)
    const unique = await seal(one, [], () => one.insertOnce('k1', 'same'))
    await one.rollback()
    const two = await h.user(2)
    const twin = await seal(two, [], () => two.insertOnce('k2', 'same'))
    await two.rollback()
    await n.tell('a unique value', accept(h, 1, unique))
    await n.tell(
      'the same, while it is in doubt',
      accept(h, 1, twin).then((r) => (r as { answer: string }).answer),
    )
    await n.tell('commit', finish(h, 1, unique, 'commit'))
    await n.tell(
      'the same, by then',
      accept(h, 1, twin).then((r) => (r as { answer: string }).answer),
    )
  },

  async 'a crash'(h, n) {
    const user = await h.user(1)
    const mine = await change(user, 'z', '1')
    const c = await lost(await h.user(0), 'a', '1')
    await n.tell('accept', accept(h, 1, c))
    await n.tell(
      'promise for another',
      h.replicas[1]!.promise(
        mine.gid.replace(/.$/, (x) => (x === '0' ? '1' : '0')),
        by(4),
        null,
      ),
    )
    await h.crash(1)
    await n.tell('the sealed one is gone', h.replicas[1]!.evidence(mine.gid))
    await n.tell('the prepared one is there', h.replicas[1]!.evidence(c.gid))
    await n.tell('its changeset too', h.replicas[1]!.changesets([c.gid]))
    await n.tell('a rival still waits', accept(h, 1, await lost(await h.user(2), 'a', '2')))
    await n.tell(
      'the promise stands',
      h.replicas[1]!.promise(
        mine.gid.replace(/.$/, (x) => (x === '0' ? '1' : '0')),
        by(3),
        null,
      ),
    )
    await n.tell('commit', finish(h, 1, c, 'commit'))
    await h.crash(1)
    await n.tell('committed', h.replicas[1]!.evidence(c.gid))
    await n.tell('row', (await h.user(1)).read('a'))
  },

  async liveness(h, n) {
    const c = await lost(await h.user(0), 'a', '1')
    await accept(h, 1, c)
    await n.tell(
      'nobody',
      h.replicas[1]!.evidence(c.gid).then((e) => e.owner_alive),
    )
    const [a, ghost] = [await h.replicas[1]!.open(), await h.replicas[1]!.open()]
    await ghost.liveness(OWNER_NAME)
    await n.tell('a second connection of the same driver does not wait', a.liveness(OWNER_NAME))
    await n.tell(
      'alive',
      h.replicas[1]!.evidence(c.gid).then((e) => e.owner_alive),
    )
    ghost.release(true)
    await h.settle(100)
    await n.tell(
      'still alive',
      h.replicas[1]!.evidence(c.gid).then((e) => e.owner_alive),
    )
    a.release(true)
    await h.settle(100)
    await n.tell(
      'gone',
      h.replicas[1]!.evidence(c.gid).then((e) => e.owner_alive),
    )
  },
}
