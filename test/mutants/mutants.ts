/**
 * Known bugs, as patches: each text must occur exactly once in its file (however it is laid out there), so none can rot unnoticed. What lies on
 * the servers is patched in the simulated replica, which the conformance suite holds to the real one. `heart`:
 * those that `npm test` runs, from this seed on, which was near one that catches it. `by`: the kind of run that
 * hunts it, else the general one.
 */
import type { RunKind } from '../sim/plan.ts'

export interface Edit {
  readonly file: string
  readonly from: string
  readonly to: string
}
export interface Mutant {
  readonly name: string
  readonly what: string
  readonly edits: readonly Edit[]
  readonly heart?: number
  readonly elsewhere?: string
  readonly kind?: RunKind
}

const mutant = (name: string, what: string, ...edits: [file: string, from: string, to: string][]): Mutant => ({
  name,
  what,
  edits: edits.map(([file, from, to]) => ({ file, from, to })),
})
const by = (kind: RunKind, m: Mutant): Mutant => ({ ...m, kind })
const heart = (m: Mutant, from = 1): Mutant => ({ ...m, heart: from })
/** Too rare for the simulator; this test catches it at the port. */
const elsewhere = (test: string, m: Mutant): Mutant => ({ ...m, elsewhere: test })

const COMMIT = 'driver/transaction/commit.ts'
const RESOLVE = 'driver/repair/resolve.ts'
const DECISION = 'driver/protocol/decision.ts'
const READ = 'driver/transaction/read.ts'
const READ_ROW = 'driver/transaction/read-row.ts'
const LOOKS = 'driver/transaction/looks.ts'
const WEAKER = 'driver/transaction/weaker.ts'
const HOLD = 'driver/transaction/hold.ts'
const LOCKS = 'driver/protocol/locks.ts'
const SWEEP = 'driver/repair/sweep.ts'
const CATCH_UP = 'driver/repair/catch-up.ts'
const TRANSACTION = 'driver/transaction/transaction.ts'
const VERBS = 'test/sim/verbs.ts'
const USER_VERBS = 'test/sim/user-verbs.ts'
const STATE = 'test/sim/state.ts'
const SERVER = 'test/sim/server.ts'
const PORT = 'test/sim/replica.ts'

export const MUTANTS: readonly Mutant[] = [
  // The live commit
  heart(
    mutant('lead commits early', 'with one accept too few behind it', [
      COMMIT,
      'tally(write - 1, followers',
      'tally(write - 2, followers',
    ]),
  ),
  heart(
    mutant('told before the lead commits', 'W − 1 accepts are taken for a decision', [
      COMMIT,
      'const reply = await lead.commit()',
      "const reply = { answer: 'yes' as const, error: undefined }\n      void lead.commit()",
    ]),
  ),
  heart(
    mutant('silence of the lead is a commit', 'the tag of its COMMIT is not waited for', [
      COMMIT,
      "if (reply.answer === 'yes') {",
      "if (reply.answer !== 'no') {",
    ]),
  ),
  heart(
    mutant('silence of the lead is an abort', 'its COMMIT may have been executed', [
      COMMIT,
      'const outcome = await resolve(cluster, gid, changeset, undefined, untold)',
      "const outcome = untold ? await resolve(cluster, gid, changeset, undefined, untold) : ('abort' as const)",
    ]),
  ),
  elsewhere(
    'test/late.test.ts',
    mutant('definite abort too soon', 'a follower that has not answered counts as a no', [
      COMMIT,
      'followers.length === others.length && followers.every(',
      'followers.every(',
    ]),
  ),
  heart(
    mutant('silence is a no', 'an accept without an answer may have prepared', [
      PORT,
      "if (!isServersWord(error)) return { answer: 'silent', error }",
      "if (!isServersWord(error)) return { answer: 'no', why: 'unreachable', error }",
    ]),
    620,
  ),
  by(
    'duel',
    mutant('unknown is rolled back', 'a commit that was given up undecided is aborted on its followers', [
      COMMIT,
      "if (reply?.answer === 'yes' && decision) await session.finish(gid, decision)",
      "if (reply?.answer === 'yes') await session.finish(gid, decision ?? 'abort')",
    ]),
  ),
  mutant('unknown is called a conflict', 'an error that says not committed, and may be wrong', [
    COMMIT,
    'throw unknownOutcome(`the outcome of ${gid} is not known yet: ${outcome.unknown}`, gid, leadError)',
    'throw conflict(outcome.unknown, gid, leadError)',
  ]),
  heart(
    mutant('the owner says untold', 'though it did tell its lead to commit', [COMMIT, '      untold = false\n', '']),
  ),
  mutant('tag ROLLBACK ignored', 'PREPARE in a failed transaction counts as a yes', [
    PORT,
    "if (tag === 'PREPARE') return",
    'if (tag) return',
  ]),
  mutant('minority is enough', 'W = ⌊N/2⌋', [
    'driver/protocol/quorum.ts',
    'Math.floor(members / 2) + 1',
    'Math.max(1, Math.floor(members / 2))',
  ]),
  mutant(
    'gid reused',
    'every transaction of a driver has the same one',
    ['driver/transaction/cluster.ts', '(++this.#sequence)', 'this.#sequence'],
    [USER_VERBS, 'const gid = prefix + digestOf(raw)', "const gid = prefix + '0'.repeat(32)"],
    [VERBS, 'if (raw === undefined || digestOf(raw) !== gid.slice(-32)) throw', 'if (raw === undefined) throw'],
  ),

  // Deciding for others
  heart(
    mutant('a bare prepare is ignored', 'what the lead may have committed is aborted', [
      DECISION,
      "return prepared.length > 0 && possible(promises.length - prepared.length, W) ? 'commit' : 'abort'",
      "return 'abort'",
    ]),
  ),
  heart(
    mutant('fewer than a majority seen is an abort', 'N2: one of three seen', [
      DECISION,
      'return prepared.length > 0 && possible(promises.length - prepared.length, W)',
      'return prepared.length >= W',
    ]),
  ),
  mutant('prepared on W is a decision', 'the shortcut of the design: the lead may have promised meanwhile', [
    DECISION,
    "  if (evidence.some((e) => e.superseded)) return 'abort'",
    "  if (evidence.filter((e) => e.prepared).length >= 2) return 'commit'\n  if (evidence.some((e) => e.superseded)) return 'abort'",
  ]),
  by(
    'duel',
    mutant(
      'any prepare binds',
      'the rule of the design: two that exclude each other wait for ever (N23)',
      [
        DECISION,
        "if (untold || promises.some((e) => e.member === lead)) return prepared.length >= W ? 'commit' : 'abort'",
        'void lead',
      ],
      [
        DECISION,
        "return prepared.length > 0 && possible(promises.length - prepared.length, W) ? 'commit' : 'abort'",
        "return prepared.length > 0 ? 'commit' : 'abort'",
      ],
      [
        DECISION,
        'if (decision && accepted > 0 && possible(promises.filter((e) => e.accepted < accepted).length, M)) return decision',
        'if (decision && accepted > 0) return decision',
      ],
    ),
  ),
  mutant('the lead is taken for silent or not at will', 'nothing is decided at ballot 0, whoever promised', [
    DECISION,
    'if (untold || promises.some((e) => e.member === lead)) return',
    'if (untold || lead !== undefined) return',
  ]),
  by(
    'duel',
    mutant('accepted ballots ignored', 'an earlier resolver’s decision is not adopted', [
      DECISION,
      'if (decision && accepted > 0 && possible',
      'if (decision && accepted < 0 && possible',
    ]),
  ),
  by(
    'duel',
    mutant('lowest ballot adopted', 'instead of the highest', [
      DECISION,
      'b.accepted - a.accepted)',
      '(a.accepted || Infinity) - (b.accepted || Infinity))',
    ]),
  ),
  mutant('superseded is not seen', 'nobody aborts what was overtaken', [
    DECISION,
    "  if (evidence.some((e) => e.superseded)) return 'abort'\n",
    '',
  ]),
  heart(
    mutant('behind is taken for superseded', 'a member that lags proves nothing', [
      VERBS,
      "state.against(bodyOf(raw).base) === 'ahead'",
      "state.against(bodyOf(raw).base) !== 'same'",
    ]),
  ),
  by(
    'duel',
    mutant('one promise is enough', 'phase 1 without a majority', [
      RESOLVE,
      'if (promised.length < cluster.needed) {',
      'if (promised.length < 1) {',
    ]),
  ),
  by(
    'duel',
    mutant('one acceptance is enough', 'phase 2 without a majority', [
      RESOLVE,
      'return yeses(votes) >= cluster.needed ? choice : undefined',
      'return yeses(votes) >= 1 ? choice : undefined',
    ]),
  ),
  by(
    'duel',
    mutant('ballots do not rise', 'a promise to a dead resolver stands for ever', [
      RESOLVE,
      'Math.max(0, ...seen.map((e) => Math.floor(e.promised / 2 ** 28)))',
      '0',
    ]),
  ),
  by(
    'duel',
    mutant('all resolvers are the same', 'equal numbers, no names', [
      RESOLVE,
      '* 2 ** 28 + chance(2 ** 28), by: cluster.owner, }',
      "* 2 ** 28, by: '' }",
    ]),
  ),
  mutant(
    'acceptance without a copy',
    'commit is recorded where nothing is prepared',
    [RESOLVE, 'if (!first.yes || first.prepared) return first', 'if (gid) return first'],
    [VERBS, " || (choice === 'commit' && !e.prepared)) return", ') return'],
  ),
  by(
    'duel',
    mutant('votes before copies', 'a resolver votes where it has prepared, before W have (found by seed 966)', [
      RESOLVE,
      'if (yeses(voters) < W) throw',
      'if (yeses(voters) < 1) throw',
    ]),
  ),
  by(
    'duel',
    mutant(
      'age by the server’s clock',
      'which may be set back (found by seed 8385)',
      [
        'driver/transaction/cluster.ts',
        'orphaned({ gid, owner_alive }: Doubt)',
        'orphaned({ gid, owner_alive, age_ms }: Doubt)',
      ],
      ['driver/transaction/cluster.ts', 'now - since > this.limits.grace_ms', 'age_ms > this.limits.grace_ms'],
    ),
  ),
  mutant(
    'the sweep resolves nothing',
    'what dead owners leave stays',
    [SWEEP, 'if (cluster.orphaned(doubt)) cluster.background(resolve(cluster, doubt.gid))', ''],
    ['driver/transaction/doubt.ts', 'await Promise.all(orphans.map((d) => resolve(cluster, d.gid)))', ''],
  ),

  // What a replica promises and accepts
  by(
    'duel',
    mutant('accept ignores promises', 'N1: the zombie prepares', [
      VERBS,
      "if (promise && after(promise.promised, promise.to, number, by)) throw refuse('QB003', 'promised to a resolver')",
      'void promise',
    ]),
  ),
  heart(
    mutant('promise while the lead is open', 'T(gid) is not respected', [
      VERBS,
      'if (!e.prepared && !e.committed) {',
      'if (e.committed && e.prepared) {',
    ]),
  ),
  by(
    'duel',
    mutant('promise not durable', 'gone after a crash', [
      VERBS,
      "await b.durable({ kind: 'ballot', gid, ballot })",
      "b.lazy({ kind: 'ballot', gid, ballot })",
    ]),
  ),
  mutant('lower ballots are promised too', 'the fence has a hole', [
    VERBS,
    'if (x && !(after(number, by, x.promised, x.to) || (x.promised === number && x.to === by))) return { ...e, yes: false }',
    '',
  ]),
  heart(
    mutant('promised and accepted are one', 'N7', [
      VERBS,
      'accepted: choice === null ? (x?.accepted ?? 0) : number, decision: choice ?? x?.decision ?? null,',
      "accepted: number, decision: choice ?? x?.decision ?? 'abort',",
    ]),
  ),
  by(
    'duel',
    mutant('a promise reports an old look', 'taken before it waited for the row (found by writing this simulator)', [
      VERBS,
      'return { ...e, yes: true, accepted: ballot.accepted, decision: ballot.decision }',
      'return { ...e, yes: true }',
    ]),
  ),
  by(
    'duel',
    mutant('torn evidence', 'its own commit, between two looks, is taken for another’s (found by the model)', [
      VERBS,
      'if (past) committed = state.applied.has(gid)',
      '',
    ]),
  ),
  mutant('prepare not durable', 'synchronous_commit is off', [
    VERBS,
    "await b.durable({ kind: 'prepare', gid, effects: { ...sealed!, locks }, at: server.clock() })",
    "b.lazy({ kind: 'prepare', gid, effects: { ...sealed!, locks }, at: server.clock() })",
  ]),
  mutant('the lead’s commit is not durable', 'synchronous_commit is off', [
    USER_VERBS,
    "if (tx && !tx.failed && tx.sealed) await b.durable({ kind: 'commit', effects: tx.sealed })",
    "if (tx && !tx.failed && tx.sealed) b.lazy({ kind: 'commit', effects: tx.sealed })",
  ]),
  heart(
    mutant('accept ignores the base', 'any order will do', [
      STATE,
      "if (stand === 'behind') throw refuse('QB001', 'this member lags')\n    if (stand === 'ahead') throw refuse('QB002', 'the changeset is stale')",
      'void stand',
    ]),
  ),
  mutant('locks end at PREPARE', 'A is not kept', [VERBS, 'server.locks.move(b.holder, holder)', '']),
  mutant('recovery forgets locks', 'A is not taken again after a crash', [
    SERVER,
    'for (const [key, mode] of p.effects.locks ?? []) if',
    'for (const [key, mode] of (p.effects.locks ?? []).slice(0, 0)) if',
  ]),
  heart(
    mutant('read marks dropped', 'a reader leaves nothing behind', [
      STATE,
      'if (m && m.v === b.v) m.gids.add(gid)\n      else this.marks.set',
      'if (m && m.v === b.v) void m\n      else if (b.v < 0) this.marks.set',
    ]),
  ),
  mutant(
    'marks not compared',
    'a writer may overtake a reader',
    [STATE, '|| (b.w && h.v === b.v && (h.mk > b.mk || (h.mk === b.mk && h.ms !== b.ms)))', ''],
    [STATE, ' || (b.w && h.mk < b.mk)) behind', ') behind'],
  ),
  mutant(
    'intents dropped',
    'rows do not rest on their table',
    [STATE, "if (!t.startsWith('@') && !whole.has(t)) intents.add(t)", ''],
    [STATE, "if (!whole.has('*')) intents.add('*')", ''],
  ),
  mutant('whole reads do not count as written', 'decision 2', [
    USER_VERBS,
    'add(g.t, g.n, g.w || g.n === -1)',
    'add(g.t, g.n, g.w)',
  ]),
  mutant('an exclusive lock extends only what was written', 'names exclude nobody', [
    USER_VERBS,
    '...sorted.filter((g) => g.w).map((g) => [g.t, g.n] as const),',
    '',
  ]),
  heart(
    mutant('seal blesses what moved', 'the base is read at the end', [
      USER_VERBS,
      "if (fresh && server.state.moved(base)) return { state: 'stale' }",
      '',
    ]),
  ),
  mutant('seal takes no locks', 'A is not taken on the lead', [USER_VERBS, '    await take(b, sorted)\n', '']),
  mutant('unique not checked by followers', 'N24', [
    STATE,
    '    this.unique(rows)\n    return rows',
    '    return rows',
  ]),

  // Reads, bases, catch-up
  heart(
    mutant('read wherever the lead stands', 'its versions are not compared', [
      READ,
      'return !(await isCurrent(mine, () => lead.versions(), seen))',
      'return false',
    ]),
  ),
  mutant('whole tables by their sums', 'the highest sum is taken for everything (found by seed 2368)', [
    LOCKS,
    'if (e.n === -1 && !e.i && (e.v !== m.v || e.c !== m.c)) unclear = true',
    '',
  ]),
  elsewhere(
    'test/late.test.ts',
    mutant('A not held for the snapshot', 'the versions may be old when the lead looks', [
      HOLD,
      'if (busy.length === 0) return await take(held.seen)',
      'if (busy.length === 0) {\n        held.letGo()\n        return await take(held.seen)\n      }',
    ]),
  ),
  elsewhere(
    'test/late.test.ts',
    mutant('doubt is not waited for', 'a read overtakes what was told', [
      HOLD,
      'if (busy.length === 0) return',
      'if (busy.length >= 0) return',
    ]),
  ),
  mutant('A not taken by readers', 'versions without waiting', [
    VERBS,
    'await take(b, granules, true)\n',
    'await Promise.resolve()\n',
  ]),
  mutant('readers ask one member', 'R = 1', [
    HOLD,
    'const needed = Math.max( least, leastRead(cluster.replicas.length, Math.min(...free.map(([, o]) => o.write), cluster.replicas.length)), )',
    'const needed = 1',
  ]),
  by(
    'dial',
    mutant('the dial is not obeyed', 'W is a majority whatever it says', [
      COMMIT,
      'tally(write - 1, followers',
      'tally(cluster.needed - 1, followers',
    ]),
  ),
  by(
    'dial',
    mutant('a majority of copies', 'a resolver commits what is on fewer members than the dial says', [
      DECISION,
      'evidence.find((e) => e.write !== null)?.write ?? majority(members)',
      'majority(members)',
    ]),
  ),
  by(
    'dial',
    mutant(
      'one reader too few',
      'R + W = N',
      ['driver/protocol/dial.ts', 'members - floor + 1', 'Math.max(1, members - floor)'],
      ['test/sim/plan.ts', 'plan.servers - d.below(plan.servers - majority(plan.servers))', 'majority(plan.servers)'],
      ['test/sim/plan.ts', 'const floor = d.hits(0.7)', 'const floor = d.hits(0)'],
    ),
  ),
  by(
    'readers',
    mutant('one row is read on the lead alone', 'nobody else is asked', [
      LOOKS,
      'Math.max(cluster.dial.read, leastRead(replicas.length, write))',
      'Math.min(1, write)',
    ]),
  ),
  by(
    'readers',
    mutant('one row is read wherever the lead stands', 'the members’ versions are not compared', [
      READ_ROW,
      '    if (!cluster.looks.had(lead.replica(), stand, from)) continue\n',
      '',
    ]),
  ),
  by(
    'readers',
    mutant('one row is looked at afterwards', 'the lead may have read before what it then vouches for', [
      LOOKS,
      'sight.version >= wanted && sight.since < until',
      'sight.version >= wanted && sight.since !== until',
    ]),
  ),
  by(
    'readers',
    mutant('in one flight, the lead is looked at afterwards', 'it may have read before what it then vouches for', [
      PORT,
      "    const looking = this.run<Look[]>('looks', [row], null).catch(() => [])\n    const result = await work()\n",
      "    const result = await work()\n    const looking = this.run<Look[]>('looks', [row], null).catch(() => [])\n",
    ]),
  ),
  by(
    'readers',
    mutant('in one flight, wherever the lead stands', 'its look is not compared with the others’', [
      READ_ROW,
      'return stand.version <= look.version && stand.whole <= look.whole && stand.everything <= look.everything ? { result } : undefined',
      'return { result }',
    ]),
  ),
  elsewhere(
    'test/by-key.test.ts',
    mutant('a group found no row, and says so', 'though its lead may only lag', [
      'driver/pool/implicit.ts',
      'missed = each.some((rows, i) => rows.length > 0 && (results[i] as pg.QueryResult).rowCount !== 1)',
      'missed = false',
    ]),
  ),
  elsewhere(
    'test/by-key.test.ts',
    mutant('a transaction found no row, and rests on nothing', 'though its lead may only lag', [
      'driver/pool/dispatch.ts',
      'if (result.rowCount === 1) {',
      "if (result.command !== '') {",
    ]),
  ),
  elsewhere(
    'test/by-key.test.ts',
    mutant(
      'a row seen and taken back',
      'what ROLLBACK TO takes from the captured rows the caller has seen all the same',
      [TRANSACTION, 'this.#everything || this.#undoable ||', 'this.#everything ||'],
    ),
  ),
  elsewhere(
    'test/by-key.test.ts',
    mutant('a plain table stays plain', 'whatever DDL has made of it', [
      'driver/transaction/seal.ts',
      'plainAt !== undefined && (sealed.everything',
      'plainAt === -1 && (sealed.everything',
    ]),
  ),
  elsewhere(
    'test/prepared.test.ts',
    mutant('prepared for ever', 'whatever becomes of the schema', [
      'driver/pool/client.ts',
      '`${this.#dispatch.changes} ${everything}`',
      '`${this.#dispatch.changes} ${everything > -2}`',
    ]),
  ),
  elsewhere(
    'test/prepared.test.ts',
    mutant('prepared whatever the session does', 'DEALLOCATE, temporary tables', [
      'driver/pool/client.ts',
      '`${this.#dispatch.changes} ${everything}`',
      'String(everything)',
    ]),
  ),
  elsewhere(
    'test/prepared.test.ts',
    mutant('prepared though it says something else each time', "'now' is a moment when it is parsed", [
      'driver/pool/prepared.ts',
      'analyse(text).every(isSteady)',
      'analyse(text).length > 0',
    ]),
  ),
  elsewhere(
    'test/prepared.test.ts',
    mutant('what an older schema brings is shown', 'an error that the caller’s statement does not have', [
      'driver/replica/sqlstate.ts',
      "code === '0A000' || code === '26000' || code.startsWith('22')",
      "code === ''",
    ]),
  ),
  elsewhere(
    'test/prepared.test.ts',
    mutant('eventual reads do not hear of the schema', 'prepared there for ever', [
      'driver/pool/reads.ts',
      'everything === this.#cluster.everything.get(replica)',
      'everything > -2',
    ]),
  ),
  elsewhere(
    'test/told.test.ts',
    mutant('in a transaction, what an older schema brings is shown', 'and not a conflict', [
      'driver/pool/dispatch.ts',
      "!isOutdated(error.code ?? '') ||",
      "isOutdated(error.code ?? '') ||",
    ]),
  ),
  elsewhere(
    'test/told.test.ts',
    mutant('every text tells all', 'what the application calls behind it is not seen', [
      'driver/schema/group.sql',
      '  RETURN NOT EXISTS ( SELECT FROM pg_attribute a JOIN pg_type y',
      '  RETURN true OR NOT EXISTS ( SELECT FROM pg_attribute a JOIN pg_type y',
    ]),
  ),
  elsewhere(
    'test/told.test.ts',
    mutant(
      'a reader’s text tells all for ever',
      'though a table is a view by now',
      [
        'driver/transaction/seal.ts',
        "sealed.state === 'clean' && told &&",
        "sealed.state === 'clean' && !told && told &&",
      ],
      ['driver/replica/postgres-lead.ts', "return [ intent('*', everything),", "return [intent('*', numbers[0] ?? 0),"],
    ),
  ),
  elsewhere(
    'test/conformance.test.ts',
    mutant('rows are extended and not compared', 'whatever version they stand at', [
      'driver/schema/rows.sql',
      "array_agg(up.version - 1 ORDER BY up.n) = (part->>'v')::bigint[] AND",
      'true AND',
    ]),
  ),
  elsewhere(
    'test/rows.test.ts',
    mutant('rows are written and not compared', 'another row here is overwritten', [
      'driver/schema/rows.sql',
      ' AND %4$s = i.o RETURNING',
      ' RETURNING',
    ]),
  ),
  elsewhere(
    'test/rows.test.ts',
    mutant('an update that found no row by its key is forgotten', 'a key that changed', [
      'driver/schema/rows.sql',
      'IF NOT every THEN',
      'IF false THEN',
    ]),
  ),
  elsewhere(
    'test/rows.test.ts',
    mutant('what is read beside leaves no mark', 'as if nobody had read it', [
      'driver/schema/rows.sql',
      'IF rs IS NOT NULL THEN PERFORM quorum.leave_marks',
      'IF rs IS NULL THEN PERFORM quorum.leave_marks',
    ]),
  ),
  elsewhere(
    'test/beginning.test.ts',
    mutant('each client greets the members', 'as many connections as clients', [
      'driver/transaction/cluster.ts',
      'return (this.#assembling ??= this.#assemble()',
      'return (this.#assembling = this.#assemble()',
    ]),
  ),
  elsewhere(
    'test/looks.test.ts',
    mutant('a read joins a look that is under way', 'which was sent before the read began', [
      LOOKS,
      '      for (const [i, { row, tell, again }] of asked.entries()) {\n',
      '      for (const late of this.#waiting.splice(0)) {\n        const like = looks[asked.findIndex((a) => a.row.key === late.row.key)]\n        if (like) { (looks as Look[])[asked.length] = like; asked.push(late) } else this.#waiting.push(late)\n      }\n      for (const [i, { row, tell, again }] of asked.entries()) {\n',
    ]),
  ),
  by(
    'readers',
    mutant('a look takes no notice of doubt', 'what was acknowledged and is only prepared is not waited for', [
      VERBS,
      'free[i] === false ? -1 : v(r.t, n)',
      'v(r.t, n)',
    ]),
  ),
  by(
    'readers',
    mutant(
      'a look’s versions are older than its locks',
      'what is committed in between is in neither',
      [
        VERBS,
        '      const free: boolean[] = []\n',
        '      const free: boolean[] = []\n      const old = new Map(state.stripes)\n      await b.breathe(2)\n',
      ],
      [
        VERBS,
        'state.stripes.get(`${t}/${n}`)?.v ?? 0\n      return rows',
        'old.get(`${t}/${n}`)?.v ?? 0\n      return rows',
      ],
    ),
  ),
  elsewhere(
    'test/looks.test.ts',
    mutant(
      'sights outlive a crash',
      'a lead is believed to have what it has forgotten',
      [LOOKS, 'if (life !== this.#life) this.#tables.clear()', 'void 0'],
      [LOOKS, '    if (life !== this.#life) return false\n', '    void life\n'],
    ),
  ),
  by(
    'dial',
    mutant('a session forgets what it wrote', 'its own writes are not in its token', [
      TRANSACTION,
      "seen?.learn([...(sealed.wrote ?? []), ...versionsAfter(baseOf(sealed.body ?? ''), true)])",
      '',
    ]),
  ),
  by(
    'dial',
    mutant(
      'a session forgets what it read',
      'only its writes count',
      [WEAKER, '      seen.learn(stripes)\n', ''],
      [READ, 'cluster.seen?.learn((await lead.stripes(requests)).stripes)\n', ''],
    ),
  ),
  by(
    'dial',
    mutant('any replica will do for a session', 'what it has seen is not compared', [
      WEAKER,
      'if (!here || !seen.coveredBy(here.stripes, here.granules)) {',
      'if (!here) {',
    ]),
  ),
  by(
    'dial',
    mutant('fresh since the answer', 'the clock is read after the strong read, not before it', [
      WEAKER,
      'const since = now_ms()\n      const result = await readStrongly(cluster, session, wanted, work)\n',
      'const result = await readStrongly(cluster, session, wanted, work)\n      const since = now_ms()\n',
    ]),
  ),
  by(
    'dial',
    mutant('fresh for all replicas', 'one is vouched for, and every one answers', [
      WEAKER,
      '`${replica.index} ${JSON.stringify(requests)}`',
      '`${replica.index >= 0} ${JSON.stringify(requests)}`',
    ]),
  ),
  by(
    'dial',
    mutant(
      'its own doubts are not missing',
      'what is prepared where it reads may have been acknowledged',
      [WEAKER, 'new Set([...own.doubt.map((d) => d.gid), ...(known', 'new Set([...(known'],
      [WEAKER, '  const missing', '  void own\n  const missing'],
    ),
  ),
  by(
    'dial',
    mutant('doubts of others are not missing', 'only what they have committed', [
      WEAKER,
      'return [...doubt.map((d) => d.gid), ...(await',
      'void doubt\n    return [...(await',
    ]),
  ),
  by(
    'dial',
    mutant('a bound in changesets asks nobody', 'only its own doubts count', [
      WEAKER,
      'cluster.needed < 2 ? []',
      'cluster.needed < 9 ? []',
    ]),
  ),
  mutant('read-only transactions are not validated', 'what they read may have moved', [
    READ,
    'if (requests.length === 0) return\n',
    'if (requests.length >= 0) return\n',
  ]),
  mutant('the latest base wins', 'what was seen first is forgotten', [
    LOCKS,
    'if (!known || (known.i && !e.i)) merged',
    'if (!known || !e.i) merged',
  ]),
  by(
    'readers',
    mutant('snapshot isolation not checked', 'REPEATABLE READ seals on its own old snapshot', [
      'driver/transaction/seal.ts',
      'return (sealed.fresh ?? latest) || !(await moved(lead, sealed, rests.base())) ? sealed',
      'return (sealed.fresh ?? latest) || rests.base().length >= 0 ? sealed',
    ]),
  ),
  mutant('base after the statement', 'the snapshot is older than what vouches for it', [
    'test/sim/client.ts',
    '        await transaction.touch(requestOf(s))\n        await this.#do(lead, s, record)',
    '        await this.#do(lead, s, record)\n        await transaction.touch(requestOf(s))',
  ]),
  mutant('catch-up skips one', 'the first of each batch', [
    CATCH_UP,
    '  for (const gid of gids) {\n    const changeset = changesets.get(gid)',
    '  for (const gid of gids.slice(gids.length > 1 ? 1 : 0)) {\n    const changeset = changesets.get(gid)',
  ]),
  mutant('catch-up in any order', 'the last first', [
    CATCH_UP,
    '    batch.push(changeset)',
    '    batch.unshift(changeset)',
  ]),
  mutant('the sweep catches nobody up', 'laggards lag', [
    SWEEP,
    'if (behind || cluster.lagging.has(replica)) this.catchUp(replica)',
    'if (behind && replica.index < 0) this.catchUp(replica)',
  ]),

  // Elsewhere in the driver
  elsewhere(
    'test/pauses.test.ts',
    mutant('a slow lead leads', 'whatever others would take', [
      'driver/transaction/cluster.ts',
      '(r) => this.slow.has(r) && r !== this.leader,',
      '',
    ]),
  ),
  elsewhere(
    'test/forget.test.ts',
    mutant('what was forgotten was not committed', 'absence is taken for abort, sooner or later', [
      'driver/repair/resolve.ts',
      'if (isForgotten([...answers.values()]))',
      'if (!gid)',
    ]),
  ),
  elsewhere(
    'test/forget.test.ts',
    mutant('what was forgotten is promised', 'and so may be aborted', [
      'driver/schema/repair.sql',
      "IF (e->>'committed')::bool OR (e->>'forgotten')::bool THEN",
      "IF (e->>'committed')::bool THEN",
    ]),
  ),
  elsewhere(
    'test/forget.test.ts',
    mutant('what was forgotten is accepted', 'though nobody would promise it a ballot', [
      'driver/schema/accept.sql',
      "f.owner = split_part(admit.gid, '_', 4) AND",
      "f.owner = '' AND",
    ]),
  ),
  elsewhere(
    'test/forget.test.ts',
    mutant('forgotten though a member lacks it', 'one says it need not know is enough', [
      'driver/repair/prune.ts',
      'said.every((s) => s.has(gid))',
      'said.some((s) => s.has(gid))',
    ]),
  ),
  elsewhere(
    'test/forget.test.ts',
    mutant('forgotten beside what is in doubt', 'that its driver began before', [
      'driver/schema/prune.sql',
      'quorum.place_of(d) <= quorum.place_of(a.gid)',
      "quorum.place_of(d) = ''",
    ]),
  ),
  elsewhere(
    'test/marks.test.ts',
    mutant('marks that stand for many count as one', 'when they are taken in again', [
      'driver/schema/granules.sql',
      '1 + coalesce(sum(old.many), 0)',
      '1 + count(old.n)',
    ]),
  ),
  elsewhere(
    'test/pauses.test.ts',
    mutant('a suspected source is waited for', 'if it is asked only after it was suspected', [
      'driver/transaction/cluster.ts',
      'forget = this.onSuspicion(look)\n        look()',
      'forget = this.onSuspicion(look)',
    ]),
  ),
  elsewhere(
    'test/pauses.test.ts',
    mutant('a laggard is not waited for', 'ten tries, and no more', [
      'driver/pool/pool.ts',
      'if (!waits && ++failed > retries)',
      'if (++failed > retries)',
    ]),
  ),
  elsewhere(
    'test/unheard.test.ts',
    mutant('who is waited for is ended', 'though its driver is heard', [
      'driver/schema/unheard.sql',
      'HAVING bool_and(state_change < since) AND bool_or(',
      'HAVING bool_or(',
    ]),
  ),
  elsewhere(
    'test/unheard.test.ts',
    mutant('who is not heard is waited for', 'for as long as it stands still', [
      'driver/replica/postgres.ts',
      'this.#beats++ % END_BEATS === 0',
      'this.#beats < 0',
    ]),
  ),
  elsewhere(
    'test/dial.test.ts',
    mutant('what was refused counts as seen', 'after the seal, in one flight', [
      TRANSACTION,
      'if (seen && !this.#sealing)',
      'if (seen)',
    ]),
  ),
  elsewhere(
    'test/surface.test.ts',
    mutant('a dead client keeps its place', 'until somebody gives it back', [
      'driver/pool/pool.ts',
      "this.on('connect', (client) => client.once('end', () => this.#dead(client)))",
      '',
    ]),
  ),
]
