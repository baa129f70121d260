/**
 * `pg-quorum resolve`: ends the transactions that a dead client left between prepare and commit. Drivers in use do
 * this by themselves within seconds; this is for a cluster that nobody uses just now, and for looking (--dry-run).
 * Safe at any time and several times at once: the ballots of docs/protocol.md, section 7, keep the decision single.
 */
import type { Command } from 'commander'
import { choose, decide, type Evidence } from '../protocol/decision.ts'
import type { BaseEntry } from '../protocol/locks.ts'
import { findChangeset } from '../repair/resolve.ts'
import type { Cluster } from '../transaction/cluster.ts'
import { doubtsOf, finishDoubts, isOrphan, withCluster, type Doubtful, type Finished } from './doubts.ts'
import { survey } from './survey.ts'
import { age, count, dress, EXIT, fitted, say, sayJson, urlsOf, type Common } from './terminal.ts'

const EXAMPLE = `$ pg-quorum resolve --dry-run
quorum_1f0c…_1_9be2…_4_…  12 s old, owner gone, prepared on 2 of 3
  it locks public.accounts (2 stripes of rows)
  would commit: it is committed on member 1
1 transaction in doubt; nothing was changed.`

export function addResolve(program: Command): void {
  dress(
    program
      .command('resolve')
      .description('list the transactions in doubt and finish them')
      .option('--dry-run', 'only say what the evidence decides'),
    EXAMPLE,
  ).action(async (options: Common & { dryRun?: true }) => {
    const urls = urlsOf(options.replicas ?? [])
    const found = await survey(urls)
    const doubts = doubtsOf(found)
    const speak = options.json ? (): void => undefined : (line: string): void => fitted(line, 4).forEach(say)
    const describe = async (cluster: Cluster, d: Doubtful): Promise<string[]> => {
      const locks = await locksOf(cluster, d.gid)
      speak(d.gid)
      speak(
        `  ${age(d.age_ms)} old, owner ${d.owner_alive ? 'alive' : 'gone'}, ` +
          `prepared on ${d.prepared_on.length} of ${found.replicas.length}: ${d.prepared_on.join(', ')}`,
      )
      speak(
        locks.length > 0
          ? `  it locks ${locks.join(', ')}`
          : '  what it locks is not known: no replica that answers has its changeset',
      )
      return locks
    }
    const report = await withCluster(urls, found, async (cluster) => {
      if (!options.dryRun) {
        const done: Finished[] = []
        for (const d of doubts) {
          await describe(cluster, d)
          const [f] = await finishDoubts(cluster, [d])
          if (f) {
            done.push(f)
            speak(`  ${wordsOf(f)}`)
          }
        }
        return { done, planned: [] }
      }
      const planned = []
      for (const d of doubts) {
        const verdict = isOrphan(d, cluster.limits.grace_ms)
          ? await foresee(cluster, d.gid)
          : 'left to its owner, which lives: it is only just being committed'
        const locks = await describe(cluster, d)
        speak(`  ${verdict}`)
        planned.push({ ...d, locks, verdict })
      }
      return { done: [], planned }
    })
    const open = report.done.filter((f) => typeof f.resolution === 'object')
    if (options.json)
      sayJson({ dry_run: options.dryRun ?? false, transactions: options.dryRun ? report.planned : report.done })
    else
      say(
        doubts.length === 0
          ? 'No transaction is in doubt.'
          : `${count(doubts.length, 'transaction')} in doubt${
              options.dryRun
                ? '; nothing was changed.'
                : `, ${
                    report.done.filter((f) => typeof f.resolution === 'string' && f.resolution !== 'left').length
                  } finished.`
            }`,
      )
    process.exitCode = open.length > 0 ? EXIT.failed : EXIT.fine
  })
}

function wordsOf(f: Finished): string {
  if (typeof f.resolution === 'object') return `still in doubt: ${f.resolution.unknown}`
  return f.resolution === 'left' ? 'left to its owner' : f.resolution === 'commit' ? 'committed' : 'rolled back'
}

/**
 * By table: a row's lock is its stripe, one of 1024 a table, and which row it was only the stripe's other rows
 * would know.
 */
async function locksOf(cluster: Cluster, gid: string): Promise<string[]> {
  const changeset = await findChangeset(cluster, gid).catch(() => undefined)
  if (!changeset) return []
  const { base } = JSON.parse(changeset.body) as { base?: BaseEntry[] }
  const tables = new Map<string, BaseEntry[]>()
  for (const e of base ?? []) if (!e.i) tables.set(e.t, [...(tables.get(e.t) ?? []), e])
  return [...tables].map(([t, entries]) => {
    const read = entries.every((e) => !e.w) ? ', only read' : ''
    if (t === '*') return `everything${read}`
    if (t.startsWith('@')) return `${t}${read}`
    return `${t} (${
      entries.some((e) => e.n === -1)
        ? 'the whole table'
        : `${entries.length === 1 ? '1 stripe' : `${entries.length} stripes`} of rows`
    }${read})`
  })
}

/**
 * Reads only. What a ballot would choose is foreseen from what the members say now; one that is silent now may
 * answer then.
 */
async function foresee(cluster: Cluster, gid: string): Promise<string> {
  const evidence: Evidence[] = []
  await Promise.all(
    cluster.replicas
      .filter((r) => !cluster.suspects.has(r))
      .map((r) =>
        r.evidence(gid).then(
          (e) => evidence.push(e),
          () => undefined,
        ),
      ),
  )
  const who = (holds: (e: Evidence) => boolean): string =>
    evidence
      .filter(holds)
      .map((e) => `member ${e.member}`)
      .join(' and ')
  const decision = decide(evidence)
  if (decision === 'commit') return `would commit: it is committed on ${who((e) => e.committed)}`
  if (decision === 'abort')
    return `would roll back: later writes went past it on ${who((e) => e.superseded)}, so it cannot have been committed`
  if (evidence.length < cluster.needed)
    return `cannot be decided: ${evidence.length} of ${cluster.replicas.length} replicas answered, ${
      cluster.needed
    } are needed`
  const lead = evidence.find((e) => e.lead !== null)?.lead ?? null
  const choice = choose(evidence, cluster.replicas.length)
  const prepared = who((e) => e.prepared)
  const why = evidence.some((e) => e.accepted > 0)
    ? 'an earlier ballot got that far'
    : prepared === ''
      ? 'it is prepared nowhere'
      : choice === 'commit'
        ? `it is prepared on ${prepared}${
            evidence.some((e) => e.member === lead)
              ? ''
              : `, and its lead${lead === null ? '' : `, member ${lead},`} may have committed it`
          }`
        : `its lead, member ${lead}, answers and has not committed it, ` +
          `and only ${prepared} ${evidence.filter((e) => e.prepared).length === 1 ? 'has' : 'have'} it prepared`
  return `no replica knows the decision; a ballot would ${choice === 'commit' ? 'commit' : 'roll back'}: ${why}`
}
