/**
 * What `doctor` judges: one function a check, from what the servers said (survey.ts, examine.ts) to findings, each
 * with the one sentence that puts it right. A check that finds nothing is ok. Volatile defaults are no finding:
 * rows are carried as they were made, so random() in a default is the same everywhere.
 */
import type { Exam } from './examine.ts'
import { each, finding, inConfig, unequal, value, within, type Check, type Finding } from './finding.ts'
import { clocks, collations, connections, disk, role, settings, timeouts, versions } from './server-checks.ts'
import { age, count } from './terminal.ts'

const replicas: Check = ({ survey }) =>
  survey.replicas.flatMap((r) => {
    const says = `${r.state.replaceAll('-', ' ')}${r.error === null ? '' : `: ${r.error}`}`
    switch (r.state) {
      case 'current':
        return r.refuses === null
          ? []
          : [finding('error', r.name, `takes no writes: ${r.refuses}`, 'See the other findings for it.')]
      case 'behind':
        return [
          finding(
            'warning',
            r.name,
            `behind by ${count(r.behind, 'changeset')}`,
            'Any driver in use brings it up, or `pg-quorum catch-up`.',
          ),
        ]
      case 'building':
        return [finding('warning', r.name, says, 'Wait for `pg-quorum clone`, or start it again.')]
      case 'empty':
        return [finding('error', r.name, says, 'Do what it says, once you are sure that it is the right server.')]
      case 'too-far-behind':
      case 'diverged':
      case 'copy':
        return [finding('error', r.name, says, 'Look at the url first; then build it again with `pg-quorum clone`.')]
      default:
        return [finding('error', r.name, says, 'Start it, or correct its url; nothing else of it could be checked.')]
    }
  })

const functions = unequal(
  'error',
  'the functions of the schema quorum are not the same',
  (e) => e.quorum?.functions.slice(0, 8),
  'Run `pg-quorum init` with all replicas up; it renews them and changes nothing else.',
)

const triggers = within((q, e) =>
  q.triggers.flatMap(({ t, missing, disabled }) => [
    missing.length > 0 &&
      finding(
        'error',
        e.name,
        `${t} has lost ${missing.length === 1 ? 'the trigger' : 'the triggers'} ` +
          `${missing.join(', ')}: writes to it are not carried`,
        'Run `pg-quorum init`, which puts them back, then `pg-quorum verify`.',
      ),
    disabled.length > 0 &&
      finding(
        'error',
        e.name,
        `${t}: ${disabled.join(', ')} ${disabled.length === 1 ? 'is' : 'are'} not enabled: ` +
          'writes to it are not carried',
        `There: ${disabled.map((d) => `\`ALTER TABLE ${t} ENABLE TRIGGER ${d}\``).join(', ')}; ` +
          'then `pg-quorum verify`.',
      ),
  ]),
)

const tables: Check = ({ survey, exams }) => [
  ...within((q, e) =>
    q.tables.map(({ t, tracked, extension, bad }) =>
      extension !== null
        ? finding(
            'note',
            e.name,
            `${t} belongs to the extension ${extension} and is not replicated`,
            'Nothing to do, unless you write to it.',
          )
        : bad !== null
          ? finding(
              'error',
              e.name,
              `${t} ${tracked ? 'should not be' : 'is not'} replicated: ${bad}`,
              'Change the table so that this is no longer true, then run `pg-quorum init`; or drop it.',
            )
          : finding(
              'error',
              e.name,
              `${t} is not replicated: it was made behind the driver`,
              'Drop it there and create it through the driver; or give all replicas the same and run `pg-quorum init`.',
            ),
    ),
  )({ survey, exams, most_log_bytes: 0 }),
  ...unequal(
    'error',
    'the tables, constraints, unique indexes or triggers are not the same',
    (e) =>
      survey.replicas.some((r) => r.name === e.name && r.state === 'current')
        ? e.quorum?.schema.slice(0, 8)
        : undefined,
    'Somebody changed one of them behind the driver: undo that there, or `pg-quorum clone` it.',
  )({ survey, exams, most_log_bytes: 0 }),
]

/** CREATE INDEX CONCURRENTLY goes member by member, and may fail on one. */

const indexes: Check = ({ exams }) =>
  exams.flatMap((e) =>
    [...new Set(exams.flatMap((o) => o.quorum?.indexes ?? []))]
      .filter((i) => e.quorum && !e.quorum.indexes.includes(i))
      .map((i) =>
        finding(
          'warning',
          e.name,
          `an index of others is missing or not valid: ${i}`,
          'Run the CREATE INDEX CONCURRENTLY again, through the driver; or drop it through the driver.',
        ),
      ),
  )

const sequences: Check = ({ survey, exams }) => {
  const found: Finding[] = []
  const seen = new Map<string, { exam: Exam; increment: number; last: number }[]>()
  for (const exam of exams)
    for (const s of exam.quorum?.sequences ?? []) {
      const others = seen.get(s.name) ?? []
      const place = (n: number): number => ((n % s.increment) + s.increment) % s.increment
      if (
        s.class?.split(',')[0] !==
        `pg-quorum: member ${survey.replicas.find((r) => r.name === exam.name)?.member} of ${survey.replicas.length}`
      )
        found.push(
          finding(
            'error',
            exam.name,
            `the sequence ${s.name} has no numbers of its own: two leads would give the same`,
            'Run `pg-quorum init`.',
          ),
        )
      else if (others.some((o) => o.increment !== s.increment || place(o.last) === place(s.last))) {
        const stride = Math.max(s.increment, ...others.map((o) => o.increment))
        const taken = new Set(others.map((o) => ((o.last % stride) + stride) % stride))
        const step = stride / survey.replicas.length
        let next = s.start + Math.ceil((Math.max(s.last, ...others.map((o) => o.last)) - s.start) / step + 1) * step
        for (let i = 0; i < survey.replicas.length && taken.has(((next % stride) + stride) % stride); i++) next += step
        found.push(
          finding(
            'error',
            exam.name,
            `the sequence ${s.name} gives the same numbers as on ${others.map((o) => o.exam.name).join(' or ')}`,
            `There: \`ALTER SEQUENCE ${s.name} INCREMENT BY ${stride} RESTART WITH ${next}\`.`,
          ),
        )
      }
      seen.set(s.name, [...others, { exam, increment: s.increment, last: s.last }])
    }
  return found
}

const identity: Check = ({ exams }) =>
  exams.flatMap((e, i) => {
    const twin = exams.slice(0, i).find((o) => o.system_identifier === e.system_identifier)
    return twin
      ? [
          finding(
            'error',
            e.name,
            `has the system identifier of ${twin.name}: one is a copy of the other, or one server is listed twice`,
            'Correct the urls; else make a new server with initdb and `pg-quorum clone` it.',
          ),
        ]
      : []
  })

const prepared = each((e) => {
  const most = Number(value(e, 'max_prepared_transactions'))
  const old = e.prepared.filter((p) => p.ours && p.age_s > 10)
  return [
    ...e.prepared
      .filter((p) => !p.ours)
      .slice(0, 5)
      .map((p) =>
        finding(
          'warning',
          e.name,
          `somebody else's prepared transaction '${p.gid}', ${age(p.age_s * 1000)} old, ` +
            'takes a slot, keeps its locks and holds back vacuum',
          `Whoever made it ends it: \`COMMIT PREPARED\` or \`ROLLBACK PREPARED '${p.gid}'\` there.`,
        ),
      ),
    old.length > 0 &&
      finding(
        'warning',
        e.name,
        `${count(old.length, 'transaction')} in doubt for ${age(Math.max(...old.map((p) => p.age_s)) * 1000)}: ` +
          'rows stay locked, vacuum is held back',
        '`pg-quorum resolve --dry-run` says what they wait for, `pg-quorum resolve` ends them.',
      ),
    most > 0 &&
      e.prepared.length >= 0.8 * most &&
      finding(
        e.prepared.length >= most ? 'error' : 'warning',
        e.name,
        `${e.prepared.length} of ${most} prepared slots are taken`,
        `End the others', or ${inConfig(`max_prepared_transactions = ${2 * most}`, true).replace(/^P/, 'p')}`,
      ),
  ]
})

const leftovers: Check = each((e) => [
  (e.quorum?.captured ?? 0) > 0 &&
    finding(
      'warning',
      e.name,
      `${count(e.quorum?.captured ?? 0, 'captured row')} of transactions that have ended: ` +
        'somebody wrote behind the driver, with its settings',
      'There: `DELETE FROM quorum.capture WHERE xid < pg_snapshot_xmin(pg_current_snapshot())`; ' +
        'then `pg-quorum verify`.',
    ),
  e.large_objects > 0 &&
    finding(
      'warning',
      e.name,
      `${count(e.large_objects, 'large object')}: they are not replicated`,
      'Keep them in bytea columns instead.',
    ),
])

export const CHECKS: Readonly<Record<string, Check>> = {
  replicas,
  settings,
  timeouts,
  role,
  functions,
  triggers,
  tables,
  indexes,
  sequences,
  versions,
  collations,
  identity,
  clocks,
  prepared,
  disk,
  connections,
  leftovers,
}
