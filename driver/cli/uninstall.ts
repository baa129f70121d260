/**
 * `pg-quorum uninstall`: leaves plain databases with equal rows. First all stand still, which shows that they are
 * equal and that nothing is in flight; then the sequences' next values are agreed on and noted on each; only then
 * is the first one stripped. Interrupted before that, the next run begins again; after it, it completes what was
 * begun.
 */
import type { Command } from 'commander'
import type pg from 'pg'
import { replicaConfigs } from '../config.ts'
import { majority } from '../protocol/quorum.ts'
import { bulkConnection, cutOff } from '../replica/copy.ts'
import { nameOf } from '../replica/address.ts'
import {
  freeze,
  handedOut,
  leaners,
  planOf,
  presenceOf,
  remember,
  standing,
  strip,
  thaw,
  type Plan,
  type Presence,
} from '../schema/uninstall.ts'
import { alone } from './building.ts'
import { confirm } from './consent.ts'
import { survey } from './survey.ts'
import {
  count,
  dress,
  fitted,
  inWords,
  onInterruption,
  say,
  sayJson,
  urlsOf,
  UsageError,
  type Common,
} from './terminal.ts'

const EXAMPLE = `$ pg-quorum uninstall
…
10.0.0.1:5432/app: a plain database again (30 triggers, 4 sequences)
10.0.0.2:5432/app: a plain database again (30 triggers, 4 sequences)
10.0.0.3:5432/app: a plain database again (30 triggers, 4 sequences)
The rows were equal on all of them. Write to one of them from now on.`

export interface UninstallOptions {
  readonly urls: readonly string[]
  /** host:port of those that may be left out: they are lost, or never will answer. */
  readonly force?: readonly string[] | undefined
  readonly dryRun?: boolean | undefined
  consent(): Promise<boolean>
  tell?(line: string): void
}
export interface UninstallReport {
  readonly done: boolean
  readonly replicas: {
    readonly name: string
    readonly state: 'plain' | 'plain already' | 'left out' | 'as it was'
    readonly triggers: number
    readonly sequences: number
    readonly roles: string | null
  }[]
}
interface Site {
  readonly name: string
  readonly client: pg.Client
  readonly here: Presence
}

export async function uninstall(o: UninstallOptions): Promise<UninstallReport> {
  const tell = o.tell ?? ((): void => undefined)
  const configs = replicaConfigs({ replicas: o.urls })
  const names = configs.map(nameOf)
  const short = (name: string): string => name.split('/')[0] ?? name
  for (const f of o.force ?? [])
    if (!names.some((n) => n === f || short(n) === f))
      throw new UsageError(`--force names ${f}, which is none of ${names.map(short).join(', ')}`)
  const left = (name: string): boolean => (o.force ?? []).some((f) => f === name || f === short(name))
  const connected = await Promise.allSettled(
    configs.map((c) => bulkConnection({ connectionTimeoutMillis: 3000, ...c }, false)),
  )
  const clients = connected.flatMap((r) => (r.status === 'fulfilled' ? [r.value] : []))
  try {
    const sites: Site[] = []
    const report = new Map<string, UninstallReport['replicas'][number]>()
    const note = (
      name: string,
      state: UninstallReport['replicas'][number]['state'],
      triggers = 0,
      sequences = 0,
      roles: string | null = null,
    ): unknown => report.set(name, { name, state, triggers, sequences, roles })
    const finish = (done: boolean): UninstallReport => ({ done, replicas: names.flatMap((n) => report.get(n) ?? []) })
    const plain: string[] = []
    for (const [i, r] of connected.entries()) {
      const name = names[i]!
      if (r.status === 'rejected') {
        if (!left(name))
          throw new Error(
            `${name} does not answer (${inWords(r.reason)}), and would stay a member of a cluster that is gone: ` +
              `start it, or leave it out with --force ${short(name)}`,
          )
        note(name, 'left out')
        continue
      }
      const here = await presenceOf(r.value)
      if (here === null) {
        plain.push(name)
        note(name, 'plain already')
      } else sites.push({ name, client: r.value, here })
    }
    const begun = sites.find((s) => s.here.plan !== null)?.here.plan ?? null
    if (sites.length === 0) return finish(true)
    sameCluster(sites, names.length)
    for (const s of sites) {
      const users = await leaners(s.client)
      if (users.length > 0)
        throw new Error(
          `${s.name}: ${users.join(', ')} would be dropped with the schema quorum: ` +
            `drop ${users.length === 1 ? 'it' : 'them'} first`,
        )
      note(s.name, 'as it was')
    }
    for (const s of sites) await alone(s.client, s.name)
    const going = begun !== null && plain.length > 0
    const unfinished =
      sites.every((s) => s.here.building && !s.here.leaving) && sites.some((s) => s.here.copy === 'adopted')
    if (!going && !unfinished) {
      if (!o.dryRun) for (const s of sites) if (s.here.leaving) await thaw(s.client)
      await ready(
        o,
        sites,
        plain.filter((n) => !left(n)),
        names.length,
      )
    }
    if (unfinished)
      tell('The cluster has not begun yet: the source is given back as it was, the others keep what was copied so far.')
    if (o.dryRun || !(await o.consent())) return finish(false)
    // (the source last: while it is none, the others are no finished copies)
    const plan = going
      ? begun
      : unfinished
        ? planOf(await Promise.all(sites.map((s) => handedOut(s.client))))
        : await agree(sites)
    for (const s of sites.toSorted((a, b) => Number(a.here.copy === 'adopted') - Number(b.here.copy === 'adopted'))) {
      const { triggers, roles } = await strip(s.client, plan)
      note(s.name, 'plain', triggers, plan.size, roles)
      tell(
        `${s.name}: a plain database again (${count(triggers, 'trigger')}, ${count(plan.size, 'sequence')})` +
          `${roles === 'dropped' ? '' : `; roles quorum_… ${roles}`}`,
      )
    }
    return finish(true)
  } finally {
    clients.forEach(cutOff)
  }
}

function sameCluster(sites: readonly Site[], given: number): void {
  for (const { name, here } of sites) {
    if (here.cluster !== sites[0]!.here.cluster)
      throw new Error(
        `${name} belongs to another cluster (${here.cluster}) than ${sites[0]!.name} (${sites[0]!.here.cluster})`,
      )
    if (here.members !== given)
      throw new Error(
        `${name} is one of ${here.members} members, ` +
          `but ${count(given, 'replica')} ${given === 1 ? 'is' : 'are'} given: name all of them`,
      )
  }
}

/** Nothing is lost by stopping here: those that are to become plain databases hold everything, and the same. */
async function ready(
  o: UninstallOptions,
  sites: readonly Site[],
  empty: readonly string[],
  members: number,
): Promise<void> {
  if (empty.length > 0)
    throw new Error(
      `nothing of pg-quorum is on ${empty.join(', ')}, which is no plain copy of the others either: ` +
        `build it (pg-quorum clone), or leave it out with --force ${empty[0]!.split('/')[0]}`,
    )
  if (sites.length < majority(members))
    throw new Error(
      `${sites.length} of ${members} replicas are left, which may lack what was acknowledged: ` +
        `${majority(members)} are needed`,
    )
  const found = await survey(o.urls)
  const cure: Partial<Record<string, string>> = {
    behind: 'pg-quorum catch-up',
    building: 'pg-quorum clone',
    'too-far-behind': 'pg-quorum clone',
    diverged: 'pg-quorum verify',
  }
  const of = found.replicas.filter((r) => sites.some((s) => s.name === r.name))
  const doubts = new Set(of.flatMap((r) => r.doubt.map((d) => d.gid)))
  if (doubts.size > 0) throw new Error(`${count(doubts.size, 'transaction')} in doubt: run pg-quorum resolve first`)
  const bad = of.find((r) => r.state !== 'current')
  if (bad)
    throw new Error(
      `${bad.name} is ${bad.state.replaceAll('-', ' ')}${
        bad.state === 'behind' ? ` by ${count(bad.behind, 'changeset')}` : bad.error === null ? '' : ` (${bad.error})`
      }: ${cure[bad.state] === undefined ? 'pg-quorum status says more' : `run ${cure[bad.state]} first`}`,
    )
}

/** From here on they stand still. If that shows that they are not equal, they go on as they were. */
async function agree(sites: readonly Site[]): Promise<Plan> {
  const frozen: Site[] = []
  try {
    for (const s of sites) {
      await freeze(s.client)
      frozen.push(s)
    }
    return await equal(sites)
  } catch (error) {
    for (const s of frozen) await thaw(s.client).catch(() => undefined) // who died meanwhile is thawed by the next run
    throw error
  }
}

async function equal(sites: readonly Site[]): Promise<Plan> {
  const states = await Promise.all(sites.map((s) => standing(s.client)))
  const doubts = new Set(states.flatMap((s) => s.prepared))
  const other = sites.find((_, i) => states[i]?.state !== states[0]?.state)
  if (doubts.size > 0 || other) {
    throw new Error(
      `${
        doubts.size > 0
          ? `${count(doubts.size, 'transaction')} in flight or in doubt`
          : `${other?.name} differs from ${sites[0]?.name}`
      }: stop the applications, run pg-quorum ${doubts.size > 0 ? 'resolve' : 'catch-up'}, ` +
        'and repeat; nothing was changed',
    )
  }
  const plan = planOf(await Promise.all(sites.map((s) => handedOut(s.client))))
  for (const s of sites) await remember(s.client, plan)
  return plan
}

export function addUninstall(program: Command): void {
  dress(
    program
      .command('uninstall')
      .description('leave: every server becomes a plain database with the same rows')
      .option('--dry-run', 'say whether anything stands against it, and change nothing')
      .option('--yes', 'do not ask')
      .option('--force <host:port...>', 'servers that may be left out: they do not answer, or\nwere never built'),
    EXAMPLE,
  ).action(async (options: Common & { dryRun?: true; yes?: true; force?: string[] }) => {
    const speak = options.json ? (): void => undefined : (line: string): void => fitted(line, 2).forEach(say)
    onInterruption(() => process.stderr.write('stopped; the same command goes on\n'))
    const urls = urlsOf(options.replicas ?? [])
    const report = await uninstall({
      urls,
      force: options.force,
      dryRun: options.dryRun,
      tell: speak,
      consent: () => {
        speak(
          `All connections to ${count(urls.length, 'database')} are ended, and the log of pg-quorum is dropped. ` +
            'From then on they are plain databases, and nothing keeps them equal.',
        )
        return confirm('Go on?', options)
      },
    })
    if (options.json) return sayJson({ ...report, dry_run: options.dryRun ?? false })
    const out = report.replicas.filter((r) => r.state === 'left out')
    if (!report.done)
      return speak(options.dryRun ? 'Nothing stands against it; nothing was changed.' : 'Nothing was changed.')
    if (report.replicas.every((r) => r.state === 'plain already'))
      return speak('Nothing of pg-quorum is on any of them.')
    if (out.length > 0)
      speak(
        `Left out: ${out.map((r) => r.name).join(', ')}. Drop what is there: ` +
          'it refuses direct writes, and what it lacks nobody brings any more.',
      )
    speak(
      `The rows are equal${out.length > 0 ? ' on the others' : ' on all of them'}. Write to one of them from now on.`,
    )
  })
}
