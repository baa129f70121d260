/**
 * Are all replicas the same? (docs/protocol.md, section 10.) Chains first, then schema, triggers and functions, the
 * log, and all rows. Nothing is changed, and writers go on: each thing is compared where the members stand at one
 * agreed point, never merely at one time.
 */
import { codeOf, sentenceOf } from '../errors.ts'
import type { Said, Witness } from '../replica/witness.ts'
import { jitter, now_ms, sleep } from '../runtime.ts'
import { judge, type Finding } from './verdict.ts'
import { verifyTable, type Limits } from './verify-rows.ts'

export interface Progress {
  readonly stage: 'chains' | 'schema' | 'log' | 'rows'
  readonly table?: string
  readonly done: number
  readonly of: number
}
export interface Report {
  /** Every replica that was given was compared in everything, and nothing differs. */
  readonly same: boolean
  readonly findings: readonly Finding[]
  readonly compared: readonly string[]
  readonly stripes: number
  readonly chains_ms: number
  readonly tables: readonly {
    readonly table: string
    readonly rows: number
    readonly ms: number
    readonly differences: number
    readonly rounds: number
  }[]
  readonly rows: number
  readonly ms: number
}
export interface Options {
  /** Chains only: milliseconds, whatever the size. */
  readonly chains?: boolean
  /** Most rows that are named for each table. Default 1000. */
  readonly rows?: number
  /** How long to wait for members to come to one point, from the last progress, in ms. Default 15 000. */
  readonly patience_ms?: number
  /** Looks at a table that moves before A is held for one. Default 4. */
  readonly free_looks?: number
  readonly onProgress?: (p: Progress) => void
}

/** members: of the cluster, whether they answer or not; a majority is one of them all. */
export async function verify(witnesses: readonly Witness[], options: Options = {}): Promise<Report> {
  const from_ms = now_ms()
  const tell = options.onProgress ?? ((): void => undefined)
  const limits: Limits = {
    members: witnesses.length,
    rows: options.rows ?? 1000,
    patience_ms: options.patience_ms ?? 15_000,
    free_looks: options.free_looks ?? 4,
  }
  const findings: Finding[] = []
  const tables: Report['tables'][number][] = []
  await greet(witnesses, findings)
  const here = (): Witness[] => witnesses.filter((w) => w.lost === undefined)

  tell({ stage: 'chains', done: 0, of: 1 })
  const stripes = await compareChains(here(), limits, findings)
  const chains_ms = now_ms() - from_ms
  if (!options.chains) {
    tell({ stage: 'schema', done: 0, of: 1 })
    await compareFacts(here(), limits, findings)
    tell({ stage: 'log', done: 0, of: 1 })
    await Promise.all(here().map(async (w) => accuse(w, await ask(w, () => w.log(), findings, 'log'), findings)))
    const sizes = new Map<string, number>()
    for (const list of await Promise.all(here().map((w) => ask(w, () => w.tables(), findings, 'list of tables'))))
      for (const { t, rows } of list) sizes.set(t, Math.max(sizes.get(t) ?? 0, rows))
    let rows = 0
    const all = [...sizes.values()].reduce((sum, n) => sum + Math.max(n, 1), 0)
    for (const [t, about] of sizes) {
      const began_ms = now_ms()
      const result = await verifyTable(here(), t, limits, (part) =>
        tell({ stage: 'rows', table: t, done: rows + part * Math.max(about, 1), of: all }),
      )
      findings.push(...result.findings)
      rows += Math.max(about, 1)
      tables.push({
        table: t,
        rows: result.rows,
        ms: now_ms() - began_ms,
        differences: result.differences,
        rounds: result.rounds,
      })
    }
  }
  for (const w of witnesses)
    if (w.lost !== undefined && !findings.some((f) => f.kind === 'replica' && f.object === w.name))
      findings.push(absent(w))
  const said = new Map<string, Finding>()
  for (const f of findings) {
    // what a member says of itself is nearer to the cause than that it differs
    const at = `${f.kind} ${f.object} ${f.key ?? ''} ${[...f.replicas].sort().join()}`
    if (!said.has(at)) said.set(at, f)
  }
  return {
    same: said.size === 0,
    findings: [...said.values()],
    compared: here().map((w) => w.name),
    stripes,
    chains_ms,
    tables,
    rows: tables.reduce((sum, t) => sum + t.rows, 0),
    ms: now_ms() - from_ms,
  }
}

const absent = (w: Witness): Finding => ({
  kind: 'replica',
  object: w.name,
  says: `was not compared: ${w.lost ?? ''}`,
  replicas: [],
  voices: [],
})

async function greet(witnesses: readonly Witness[], findings: Finding[]): Promise<void> {
  await Promise.all(
    witnesses.map((w) =>
      w.hello().catch((error: unknown) => {
        w.lost ??= codeOf(error) === '42P01' ? 'it is not initialised: run `pg-quorum init`' : sentenceOf(error)
      }),
    ),
  )
  for (const [i, w] of witnesses.entries()) {
    const twin = witnesses.find((o, j) => j < i && w.member !== 0 && o.member === w.member)
    if (twin) w.lost = `is member ${w.member}, and so is ${twin.name}: one url twice, or a copy`
    if (w.lost !== undefined) findings.push(absent(w))
  }
}

/** A member that cannot answer this is told as a finding, and the others go on. */
async function ask<T>(w: Witness, question: () => Promise<T[]>, findings: Finding[], what: string): Promise<T[]> {
  try {
    return await question()
  } catch (error) {
    if (w.lost === undefined)
      findings.push({
        kind: 'unreadable',
        object: what,
        says: `cannot be read: ${sentenceOf(error)}`,
        replicas: [w.name],
        voices: [],
      })
    return []
  }
}

function accuse(w: Witness, said: readonly Said[], findings: Finding[]): void {
  for (const { kind, object, says } of said) findings.push({ kind, object, says, replicas: [w.name], voices: [] })
}

/** Wherever versions are equal, chains must be: needs no agreed point, and so no waiting. */
async function compareChains(here: readonly Witness[], limits: Limits, findings: Finding[]): Promise<number> {
  const at = new Map<string, Map<string, string>>()
  await Promise.all(
    here.map(async (w) => {
      for (const [t, n, version, chain] of await ask(w, () => w.versions(), findings, 'quorum.stripe')) {
        const place = `${t}${n === -1 ? '' : ` stripe ${n}`}\n${version}`
        at.set(place, (at.get(place) ?? new Map<string, string>()).set(w.name, chain))
      }
    }),
  )
  const places = new Set<string>()
  for (const [place, chains] of at) {
    const [name = '', version] = place.split('\n')
    places.add(name)
    const odd = judge('chain', name, chains, limits.members)
    if (odd) findings.push({ ...odd, says: `has another history at version ${version}` })
  }
  return places.size
}

/** Read while no DDL was in between, on any of them: `*` stands where it stood, and at the same version everywhere. */
async function compareFacts(here: readonly Witness[], limits: Limits, findings: Finding[]): Promise<void> {
  const deadline = now_ms() + Math.min(limits.patience_ms, 5000)
  for (;;) {
    const stars = (): Promise<string[]> => Promise.all(here.map((w) => w.star().catch(() => '')))
    const before = await stars()
    const fresh: Finding[] = []
    const facts = await Promise.all(
      here.map(async (w) => {
        accuse(w, await ask(w, () => w.faults(), fresh, 'triggers and settings'), fresh)
        return new Map((await ask(w, () => w.facts(), fresh, 'schema')).map((f) => [`${f.kind}\n${f.object}`, f.says]))
      }),
    )
    const residues = await Promise.all(
      here.map(
        async (w) => new Map((await ask(w, () => w.residues(), fresh, 'sequences')).map((r) => [r.name, r.residue])),
      ),
    )
    const after = await stars()
    const answered = here.flatMap((w, i) => (w.lost === undefined && (facts[i]?.size ?? 0) > 0 ? [i] : []))
    const newest = String(Math.max(...answered.map((i) => Number(after[i]))))
    const asked = answered.filter((i) => before[i] === after[i] && after[i] === newest)
    if (asked.length < answered.length && now_ms() < deadline) {
      await sleep(jitter(100))
      continue
    }
    findings.push(...fresh)
    for (const i of answered)
      if (!asked.includes(i))
        findings.push({
          kind: 'behind',
          object: '*',
          says: 'lacks schema changes that others have, so its schema was not compared',
          replicas: [here[i]?.name ?? ''],
          voices: [],
        })
    for (const place of new Set(asked.flatMap((i) => [...(facts[i]?.keys() ?? [])]))) {
      const [kind = '', object = ''] = place.split('\n')
      const odd = judge(
        kind,
        object,
        new Map(asked.map((i) => [here[i]?.name ?? '', facts[i]?.get(place) ?? null])),
        limits.members,
      )
      if (odd) findings.push(odd)
    }
    for (const name of new Set(asked.flatMap((i) => [...(residues[i]?.keys() ?? [])]))) {
      const classes = new Map<string, string[]>()
      for (const i of asked) {
        const residue = residues[i]?.get(name)
        if (residue !== undefined) classes.set(residue, [...(classes.get(residue) ?? []), here[i]?.name ?? ''])
      }
      for (const twins of classes.values())
        if (twins.length > 1)
          findings.push({
            kind: 'sequence',
            object: name,
            says: 'is in one residue class on more than one: they will give the same values',
            replicas: twins,
            voices: [],
          })
    }
    return
  }
}
