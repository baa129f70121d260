/**
 * What `doctor` judges: one function a check, from what the servers said (survey.ts, examine.ts) to findings, each with the one sentence that puts it
 * right. A check that finds nothing is ok. Volatile defaults are no finding: rows are carried as they were made, so random() in a default is the same everywhere.
 */
import type { Exam, Inside } from './examine.ts'
import type { Survey } from './survey.ts'
import { age, count, size, span } from './terminal.ts'

export type Level = 'note' | 'warning' | 'error'
export interface Finding { readonly level: Level; readonly replica: string | null; readonly says: string; readonly cure: string }
export interface Examined { readonly survey: Survey; readonly exams: readonly Exam[]; readonly most_log_bytes: number }
type Check = (all: Examined) => Finding[]

const finding = (level: Level, replica: string | null, says: string, cure: string): Finding => ({ level, replica, says, cure })
const each = (look: (exam: Exam) => (Finding | false)[]): Check => ({ exams }) => exams.flatMap(look).filter((f) => f !== false)
const within = (look: (inside: Inside, exam: Exam) => (Finding | false)[]): Check => each((e) => (e.quorum ? look(e.quorum, e) : []))
const value = (e: Exam, name: string): string => e.settings[name]?.value ?? ''

/** Who says what, if not all say the same: "a, b: x; c: y". */
function difference(exams: readonly Exam[], what: (e: Exam) => string | undefined): string | undefined {
  const groups = new Map<string, string[]>()
  for (const e of exams) {
    const said = what(e)
    if (said !== undefined) groups.set(said, [...(groups.get(said) ?? []), e.name])
  }
  return groups.size < 2 ? undefined : [...groups].map(([said, names]) => `${names.join(', ')}: ${said}`).join('; ')
}
function unequal(level: Level, what: string, pick: (e: Exam) => string | undefined, cure: string): Check {
  return ({ exams }) => {
    const said = difference(exams, pick)
    return said === undefined ? [] : [finding(level, null, `${what} (${said})`, cure)]
  }
}

const replicas: Check = ({ survey }) => survey.replicas.flatMap((r) => {
  const says = `${r.state.replaceAll('-', ' ')}${r.error === null ? '' : `: ${r.error}`}`
  switch (r.state) {
    case 'current': return r.refuses === null ? [] : [finding('error', r.name, `takes no writes: ${r.refuses}`, 'See the other findings for it.')]
    case 'behind': return [finding('warning', r.name, `behind by ${count(r.behind, 'changeset')}`, 'Any driver in use brings it up, or `pg-quorum catch-up`.')]
    case 'building': return [finding('warning', r.name, says, 'Wait for `pg-quorum clone`, or start it again.')]
    case 'empty': return [finding('error', r.name, says, 'Do what it says, once you are sure that it is the right server.')]
    case 'too-far-behind': case 'diverged': case 'copy': return [finding('error', r.name, says, 'Look at the url first; then build it again with `pg-quorum clone`.')]
    default: return [finding('error', r.name, says, 'Start it, or correct its url; nothing else of it could be checked.')]
  }
})

const inConfig = (line: string, restart = false): string => `Put \`${line}\` into its postgresql.conf and ${restart ? 'restart' : 'reload'} it.`
const settings = each((e) => [
  value(e, 'fsync') !== 'on' && finding('error', e.name, 'fsync is off: a crash can lose what it acknowledged', inConfig('fsync = on')),
  value(e, 'full_page_writes') !== 'on' && finding('error', e.name, 'full_page_writes is off: a crash can corrupt it', inConfig('full_page_writes = on')),
  value(e, 'max_prepared_transactions') === '0' && finding('error', e.name, 'max_prepared_transactions is 0: it cannot take part in a commit', inConfig('max_prepared_transactions = 100', true)),
  value(e, 'default_transaction_read_only') === 'on' && finding('error', e.name, 'default_transaction_read_only is on: it takes no writes', reset(e, 'default_transaction_read_only')),
  value(e, 'autovacuum') !== 'on' && finding('warning', e.name, 'autovacuum is off: tables and the log swell', inConfig('autovacuum = on')),
  value(e, 'synchronous_standby_names') !== '' && finding('warning', e.name, 'synchronous_standby_names is set: every commit here waits for a standby, and stops with it', inConfig("synchronous_standby_names = ''")),
])

function reset(e: Exam, name: string): string {
  const source = e.settings[name]?.source ?? ''
  const first = name === 'default_transaction_read_only' ? 'SET default_transaction_read_only = off; ' : ''
  if (source === 'database') return `There: \`${first}ALTER DATABASE "${e.database}" RESET ${name}\`.`
  if (source === 'user') return `There: \`${first}ALTER ROLE "${e.role}" RESET ${name}\`.`
  if (source === 'database user') return `There: \`${first}ALTER ROLE "${e.role}" IN DATABASE "${e.database}" RESET ${name}\`.`
  if (source === 'client') return 'Take it out of the url.'
  return `Take ${name} out of its postgresql.conf (or \`ALTER SYSTEM RESET ${name}\`) and reload it.`
}

/** Below this they cut off the driver's own work on a bad day: a large changeset, a lock that is waited for, a clone. */
const SHORT_MS = 60_000
const timeouts = each((e) => ['statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout'].map((name) => {
  const ms = Number(value(e, name))
  return ms > 0 && ms < SHORT_MS && finding('warning', e.name, `${name} is ${span(ms)}: it cuts off the driver's own work too`, reset(e, name))
}))

const role = each((e) => [
  !e.granted && finding('error', e.name, `the role ${e.role} is not allowed to use pg-quorum`, `A superuser runs \`pg-quorum init --role ${e.role}\`, or there: \`GRANT quorum_app TO "${e.role}"\`.`),
  e.granted && !e.superuser && !e.registered && finding('note', e.name, `the role ${e.role} cannot change the schema through pg-quorum`, `If it shall: a superuser runs \`pg-quorum init --role ${e.role}\`.`),
])

const functions = unequal('error', 'the functions of the schema quorum are not the same', (e) => e.quorum?.functions.slice(0, 8), 'Run `pg-quorum init` with all replicas up; it renews them and changes nothing else.')

const triggers = within((q, e) => q.triggers.flatMap(({ t, missing, disabled }) => [
  missing.length > 0 && finding('error', e.name, `${t} has lost ${missing.length === 1 ? 'the trigger' : 'the triggers'} ${missing.join(', ')}: writes to it are not carried`, 'Run `pg-quorum init`, which puts them back, then `pg-quorum verify`.'),
  disabled.length > 0 && finding('error', e.name, `${t}: ${disabled.join(', ')} ${disabled.length === 1 ? 'is' : 'are'} not enabled: writes to it are not carried`, `There: ${disabled.map((d) => `\`ALTER TABLE ${t} ENABLE TRIGGER ${d}\``).join(', ')}; then \`pg-quorum verify\`.`),
]))

const tables: Check = ({ survey, exams }) => [
  ...within((q, e) => q.tables.map(({ t, tracked, extension, bad }) => (
    extension !== null ? finding('note', e.name, `${t} belongs to the extension ${extension} and is not replicated`, 'Nothing to do, unless you write to it.')
    : bad !== null ? finding('error', e.name, `${t} ${tracked ? 'should not be' : 'is not'} replicated: ${bad}`, 'Change the table so that this is no longer true, then run `pg-quorum init`; or drop it.')
    : finding('error', e.name, `${t} is not replicated: it was made behind the driver`, 'Drop it there and create it through the driver; or give all replicas the same and run `pg-quorum init`.')
  )))({ survey, exams, most_log_bytes: 0 }),
  ...unequal('error', 'the tables, constraints, unique indexes or triggers are not the same', (e) => (survey.replicas.some((r) => r.name === e.name && r.state === 'current') ? e.quorum?.schema.slice(0, 8) : undefined),
    'Somebody changed one of them behind the driver: undo that there, or `pg-quorum clone` it.')({ survey, exams, most_log_bytes: 0 }),
]

/** CREATE INDEX CONCURRENTLY goes member by member, and may fail on one. */
const indexes: Check = ({ exams }) => exams.flatMap((e) => [...new Set(exams.flatMap((o) => o.quorum?.indexes ?? []))].filter((i) => e.quorum && !e.quorum.indexes.includes(i))
  .map((i) => finding('warning', e.name, `an index of others is missing or not valid: ${i}`, 'Run the CREATE INDEX CONCURRENTLY again, through the driver; or drop it through the driver.')))

const sequences: Check = ({ survey, exams }) => {
  const found: Finding[] = []
  const seen = new Map<string, { exam: Exam; increment: number; last: number }[]>()
  for (const exam of exams) for (const s of exam.quorum?.sequences ?? []) {
    const others = seen.get(s.name) ?? []
    const place = (n: number): number => ((n % s.increment) + s.increment) % s.increment
    if (s.class?.split(',')[0] !== `pg-quorum: member ${survey.replicas.find((r) => r.name === exam.name)?.member} of ${survey.replicas.length}`) found.push(finding('error', exam.name, `the sequence ${s.name} has no numbers of its own: two leads would give the same`, 'Run `pg-quorum init`.'))
    else if (others.some((o) => o.increment !== s.increment || place(o.last) === place(s.last))) {
      const stride = Math.max(s.increment, ...others.map((o) => o.increment))
      const taken = new Set(others.map((o) => ((o.last % stride) + stride) % stride))
      const step = stride / survey.replicas.length
      let next = s.start + Math.ceil((Math.max(s.last, ...others.map((o) => o.last)) - s.start) / step + 1) * step
      for (let i = 0; i < survey.replicas.length && taken.has(((next % stride) + stride) % stride); i++) next += step
      found.push(finding('error', exam.name, `the sequence ${s.name} gives the same numbers as on ${others.map((o) => o.exam.name).join(' or ')}`, `There: \`ALTER SEQUENCE ${s.name} INCREMENT BY ${stride} RESTART WITH ${next}\`.`))
    }
    seen.set(s.name, [...others, { exam, increment: s.increment, last: s.last }])
  }
  return found
}

const versions: Check = (all) => [
  ...unequal('warning', 'the servers run different major versions', (e) => e.version.split('.')[0], 'Bring them to one: values could be written differently.')(all),
  ...[...new Set(all.exams.flatMap((e) => Object.keys(e.extensions)))].flatMap((name) =>
    unequal('warning', `the extension ${name} is not the same`, (e) => e.extensions[name] ?? 'missing', `Bring it to one version: \`ALTER EXTENSION ${name} UPDATE\` (or CREATE EXTENSION through the driver).`)(all)),
]

const collations: Check = (all) => [
  ...unequal('error', 'the encodings differ', (e) => e.encoding, 'Create the odd database again with the same encoding, then `pg-quorum clone`.')(all),
  ...unequal('warning', 'the locales differ: one order of text here, another there', (e) => e.locale, 'Create the odd database again with the same locale, then `pg-quorum clone`.')(all),
  ...[...new Set(all.exams.flatMap((e) => e.collations.map((c) => c.name)))].flatMap((name) =>
    unequal('warning', `the collation ${name} has different versions`, (e) => e.collations.find((c) => c.name === name)?.actual ?? 'none', 'Bring the servers to the same operating system or ICU.')(all)),
  ...each((e) => e.collations.map((c) => c.recorded !== c.actual && finding('warning', e.name, `the collation ${c.name} was version ${c.recorded ?? 'none'} when its indexes were built and is ${c.actual ?? 'none'} now`,
    `There: REINDEX what uses it, then \`ALTER ${c.name.startsWith('the ') ? `DATABASE "${e.database}"` : `COLLATION "${c.name}"`} REFRESH ${c.name.startsWith('the ') ? 'COLLATION ' : ''}VERSION\`.`)))(all),
]

const identity: Check = ({ exams }) => exams.flatMap((e, i) => {
  const twin = exams.slice(0, i).find((o) => o.system_identifier === e.system_identifier)
  return twin ? [finding('error', e.name, `has the system identifier of ${twin.name}: one is a copy of the other, or one server is listed twice`, 'Correct the urls; else make a new server with initdb and `pg-quorum clone` it.')] : []
})

/** Nothing of the promise rests on clocks; now() in rows, ages and `keep` do. */
const CLOCKS_MS = 1000
const clocks: Check = ({ survey }) => ((survey.clock_spread_ms ?? 0) < CLOCKS_MS ? [] : [finding('warning', null,
  `the clocks differ by ${span(survey.clock_spread_ms ?? 0)} (${survey.replicas.flatMap((r) => (r.facts ? [`${r.name}: ${r.facts.clock_offset_ms < 0 ? '-' : '+'}${span(Math.abs(r.facts.clock_offset_ms))} to this machine`] : [])).join('; ')})`, 'Let chrony or ntpd set them; now() differs with the lead until then.')])

const prepared = each((e) => {
  const most = Number(value(e, 'max_prepared_transactions'))
  const old = e.prepared.filter((p) => p.ours && p.age_s > 10)
  return [
    ...e.prepared.filter((p) => !p.ours).slice(0, 5).map((p) => finding('warning', e.name, `somebody else's prepared transaction '${p.gid}', ${age(p.age_s * 1000)} old, takes a slot, keeps its locks and holds back vacuum`, `Whoever made it ends it: \`COMMIT PREPARED\` or \`ROLLBACK PREPARED '${p.gid}'\` there.`)),
    old.length > 0 && finding('warning', e.name, `${count(old.length, 'transaction')} in doubt for ${age(Math.max(...old.map((p) => p.age_s)) * 1000)}: rows stay locked, vacuum is held back`, '`pg-quorum resolve --dry-run` says what they wait for, `pg-quorum resolve` ends them.'),
    most > 0 && e.prepared.length >= 0.8 * most && finding(e.prepared.length >= most ? 'error' : 'warning', e.name, `${e.prepared.length} of ${most} prepared slots are taken`, `End the others', or ${inConfig(`max_prepared_transactions = ${2 * most}`, true).replace(/^P/, 'p')}`),
  ]
})

const disk: Check = (all) => [
  finding('note', null, `in use: ${all.exams.map((e) => `${e.name} ${size(e.database_bytes)}${e.wal_bytes === null ? '' : ` and ${size(e.wal_bytes)} of WAL`}`).join(', ')}`, 'PostgreSQL cannot say how much of a disk is free: look at `df` on the servers.'),
  ...each((e) => [
    e.idle_slots.length > 0 && finding('warning', e.name, `${e.idle_slots.length === 1 ? 'the replication slot' : 'the replication slots'} ${e.idle_slots.join(', ')} ${e.idle_slots.length === 1 ? 'is' : 'are'} not in use: WAL is kept for ${e.idle_slots.length === 1 ? 'it' : 'them'} until the disk is full`, `There: \`SELECT pg_drop_replication_slot('${e.idle_slots[0]}')\`, if nobody comes back for it.`),
  ])(all),
  ...all.survey.replicas.flatMap((r) => ((r.facts?.log_bytes ?? 0) > all.most_log_bytes ? [finding('warning', r.name, `the log of changesets has ${size(r.facts?.log_bytes ?? 0)}`, '`pg-quorum prune --dry-run` says how much can go; `keep` in the pool\'s options does it in the background.')] : [])),
]

const FEW = 20
const connections = each((e) => {
  const free = Number(value(e, 'max_connections')) - Number(value(e, 'superuser_reserved_connections')) - e.connections
  return [free < FEW && finding('warning', e.name, `only ${free} connections are free; a pool of 10 takes up to 45`, inConfig('max_connections = 300', true))]
})

const leftovers: Check = each((e) => [
  (e.quorum?.captured ?? 0) > 0 && finding('warning', e.name, `${count(e.quorum?.captured ?? 0, 'captured row')} of transactions that have ended: somebody wrote behind the driver, with its settings`, 'There: `DELETE FROM quorum.capture WHERE xid < pg_snapshot_xmin(pg_current_snapshot())`; then `pg-quorum verify`.'),
  e.large_objects > 0 && finding('warning', e.name, `${count(e.large_objects, 'large object')}: they are not replicated`, 'Keep them in bytea columns instead.'),
])

export const CHECKS: Readonly<Record<string, Check>> = { replicas, settings, timeouts, role, functions, triggers, tables, indexes, sequences, versions, collations, identity, clocks, prepared, disk, connections, leftovers }
