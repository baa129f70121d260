/** What `doctor` judges of the servers themselves: their settings, versions, roles, clocks, disks and connections. */
import { each, finding, inConfig, reset, unequal, value, type Check } from './finding.ts'
import { size, span } from './terminal.ts'

export const settings = each((e) => [
  value(e, 'fsync') !== 'on' &&
    finding('error', e.name, 'fsync is off: a crash can lose what it acknowledged', inConfig('fsync = on')),
  value(e, 'full_page_writes') !== 'on' &&
    finding('error', e.name, 'full_page_writes is off: a crash can corrupt it', inConfig('full_page_writes = on')),
  value(e, 'max_prepared_transactions') === '0' &&
    finding(
      'error',
      e.name,
      'max_prepared_transactions is 0: it cannot take part in a commit',
      inConfig('max_prepared_transactions = 100', true),
    ),
  value(e, 'default_transaction_read_only') === 'on' &&
    finding(
      'error',
      e.name,
      'default_transaction_read_only is on: it takes no writes',
      reset(e, 'default_transaction_read_only'),
    ),
  value(e, 'autovacuum') !== 'on' &&
    finding('warning', e.name, 'autovacuum is off: tables and the log swell', inConfig('autovacuum = on')),
  value(e, 'synchronous_standby_names') !== '' &&
    finding(
      'warning',
      e.name,
      'synchronous_standby_names is set: every commit here waits for a standby, and stops with it',
      inConfig("synchronous_standby_names = ''"),
    ),
])

/**
 * Below this they cut off the driver's own work on a bad day: a large changeset, a lock that is waited for, a
 * clone.
 */
const SHORT_MS = 60_000
export const timeouts = each((e) =>
  [
    'statement_timeout',
    'lock_timeout',
    'idle_in_transaction_session_timeout',
    'idle_session_timeout',
    'transaction_timeout',
  ].map((name) => {
    const ms = Number(value(e, name))
    return (
      ms > 0 &&
      ms < SHORT_MS &&
      finding('warning', e.name, `${name} is ${span(ms)}: it cuts off the driver's own work too`, reset(e, name))
    )
  }),
)

export const role = each((e) => [
  !e.granted &&
    finding(
      'error',
      e.name,
      `the role ${e.role} is not allowed to use pg-quorum`,
      `A superuser runs \`pg-quorum init --role ${e.role}\`, or there: \`GRANT quorum_app TO "${e.role}"\`.`,
    ),
  e.granted &&
    !e.superuser &&
    !e.registered &&
    finding(
      'note',
      e.name,
      `the role ${e.role} cannot change the schema through pg-quorum`,
      `If it shall: a superuser runs \`pg-quorum init --role ${e.role}\`.`,
    ),
])

export const versions: Check = (all) => [
  ...unequal(
    'warning',
    'the servers run different major versions',
    (e) => e.version.split('.')[0],
    'Bring them to one: values could be written differently.',
  )(all),
  ...[...new Set(all.exams.flatMap((e) => Object.keys(e.extensions)))].flatMap((name) =>
    unequal(
      'warning',
      `the extension ${name} is not the same`,
      (e) => e.extensions[name] ?? 'missing',
      `Bring it to one version: \`ALTER EXTENSION ${name} UPDATE\` (or CREATE EXTENSION through the driver).`,
    )(all),
  ),
]

export const collations: Check = (all) => [
  ...unequal(
    'error',
    'the encodings differ',
    (e) => e.encoding,
    'Create the odd database again with the same encoding, then `pg-quorum clone`.',
  )(all),
  ...unequal(
    'warning',
    'the locales differ: one order of text here, another there',
    (e) => e.locale,
    'Create the odd database again with the same locale, then `pg-quorum clone`.',
  )(all),
  ...[...new Set(all.exams.flatMap((e) => e.collations.map((c) => c.name)))].flatMap((name) =>
    unequal(
      'warning',
      `the collation ${name} has different versions`,
      (e) => e.collations.find((c) => c.name === name)?.actual ?? 'none',
      'Bring the servers to the same operating system or ICU.',
    )(all),
  ),
  ...each((e) =>
    e.collations.map(
      (c) =>
        c.recorded !== c.actual &&
        finding(
          'warning',
          e.name,
          `the collation ${c.name} was version ${c.recorded ?? 'none'} when its indexes were built ` +
            `and is ${c.actual ?? 'none'} now`,
          'There: REINDEX what uses it, ' +
            `then \`ALTER ${c.name.startsWith('the ') ? `DATABASE "${e.database}"` : `COLLATION "${c.name}"`} ` +
            `REFRESH ${c.name.startsWith('the ') ? 'COLLATION ' : ''}VERSION\`.`,
        ),
    ),
  )(all),
]

/** Nothing of the promise rests on clocks; now() in rows, ages and `keep` do. */
const CLOCKS_MS = 1000
export const clocks: Check = ({ survey }) =>
  (survey.clock_spread_ms ?? 0) < CLOCKS_MS
    ? []
    : [
        finding(
          'warning',
          null,
          `the clocks differ by ${span(survey.clock_spread_ms ?? 0)} (` +
            `${survey.replicas.flatMap((r) => (r.facts ? [`${r.name}: ${r.facts.clock_offset_ms < 0 ? '-' : '+'}${span(Math.abs(r.facts.clock_offset_ms))} to this machine`] : [])).join('; ')})`,
          'Let chrony or ntpd set them; now() differs with the lead until then.',
        ),
      ]

export const disk: Check = (all) => [
  finding(
    'note',
    null,
    `in use: ${all.exams
      .map(
        (e) => `${e.name} ${size(e.database_bytes)}${e.wal_bytes === null ? '' : ` and ${size(e.wal_bytes)} of WAL`}`,
      )
      .join(', ')}`,
    'PostgreSQL cannot say how much of a disk is free: look at `df` on the servers.',
  ),
  ...each((e) => [
    e.idle_slots.length > 0 &&
      finding(
        'warning',
        e.name,
        `${e.idle_slots.length === 1 ? 'the replication slot' : 'the replication slots'} ` +
          `${e.idle_slots.join(', ')} ${e.idle_slots.length === 1 ? 'is' : 'are'} not in use: ` +
          `WAL is kept for ${e.idle_slots.length === 1 ? 'it' : 'them'} until the disk is full`,
        `There: \`SELECT pg_drop_replication_slot('${e.idle_slots[0]}')\`, if nobody comes back for it.`,
      ),
  ])(all),
  ...all.survey.replicas.flatMap((r) =>
    (r.facts?.log_bytes ?? 0) > all.most_log_bytes
      ? [
          finding(
            'warning',
            r.name,
            `the log of changesets has ${size(r.facts?.log_bytes ?? 0)}`,
            "`pg-quorum prune --dry-run` says how much can go; `keep` in the pool's options does it in the background.",
          ),
        ]
      : [],
  ),
]

const FEW = 20
export const connections = each((e) => {
  const free = Number(value(e, 'max_connections')) - Number(value(e, 'superuser_reserved_connections')) - e.connections
  return [
    free < FEW &&
      finding(
        'warning',
        e.name,
        `only ${free} connections are free; a pool of 10 takes up to 45`,
        inConfig('max_connections = 300', true),
      ),
  ]
})
