/** What verify asks of one server about its log; as in questions.ts. */
const at = (row: string): string =>
  `CASE WHEN ${row}.n = -1 THEN ${row}.t ELSE format('%s stripe %s', ${row}.t, ${row}.n) END`
const digest = `substr(encode(sha256(convert_to(c.body, 'UTF8')), 'hex'), 1, 32) = right(c.gid, 32)`
const MOST = 'LIMIT 20'

/**
 * The log against itself, in one snapshot; a log whose beginning was pruned is complete from where it begins.
 * Chains are folded again from the history, changesets are hashed against their gids, and what each applied one
 * wrote and read must stand in history and marks.
 */
export const LOG = [
  `
    SELECT
      'history' AS kind,
      CASE
        WHEN coalesce(s.n, h.n) = -1 THEN coalesce(s.t, h.t)
        ELSE format('%s stripe %s', coalesce(s.t, h.t), coalesce(s.n, h.n))
      END AS object,
      CASE
        WHEN s.t IS NULL THEN 'has a history, but no version'
        WHEN s.version <> h.last THEN format('stands at version %s, its history ends at %s', s.version, h.last)
        ELSE format('has %s of the versions %s to %s in its history', h.k, h.first, h.last)
      END AS says
    FROM (
      SELECT t, n, max(version) AS last, min(version) AS first, count(*) AS k
      FROM quorum.history
      GROUP BY t, n) h
    LEFT JOIN quorum.stripe s ON s.t = h.t AND s.n = h.n
    WHERE s.version IS DISTINCT FROM h.last OR h.k <> h.last - h.first + 1
    ${MOST}`,
  `
    WITH RECURSIVE fold AS (
      SELECT s.t, s.n, s.version AS last, s.chain AS stored, 0::bigint AS version, 0::bigint AS chain
      FROM quorum.stripe s
      UNION ALL
      SELECT f.t, f.n, f.last, f.stored, h.version, quorum.link(f.chain, h.gid)
      FROM fold f
      JOIN quorum.history h ON h.t = f.t AND h.n = f.n AND h.version = f.version + 1)
    SELECT 'chain' AS kind, ${at('f')} AS object, 'is not what its history gives: one of them was changed' AS says
    FROM fold f
    WHERE f.version = f.last AND f.chain <> f.stored
    ${MOST}`,
  `
    SELECT DISTINCT 'applied' AS kind, h.gid AS object, 'is in the history, but not among what was applied' AS says
    FROM quorum.history h
    WHERE NOT EXISTS (SELECT FROM quorum.applied a WHERE a.gid = h.gid)
    ${MOST}`,
  `
    SELECT 'applied' AS kind, a.gid AS object, 'belongs to another cluster' AS says
    FROM quorum.applied a, quorum.self
    WHERE split_part(a.gid, '_', 2) <> self.cluster
    ${MOST}`,
  `
    SELECT DISTINCT
      'changeset' AS kind,
      h.gid AS object,
      'is missing, though its history is there: pruning takes both' AS says
    FROM quorum.history h
    WHERE NOT EXISTS (SELECT FROM quorum.changeset c WHERE c.gid = h.gid)
    ${MOST}`,
  `
    SELECT 'changeset' AS kind, c.gid AS object, 'was changed: its digest is not the one in its gid' AS says
    FROM quorum.changeset c
    WHERE NOT ${digest}
    ${MOST}`,
  `
    SELECT
      'history' AS kind,
      c.gid AS object,
      format('wrote %s stripe %s, whose history does not know it', w->>0, w->>1) AS says
    FROM quorum.changeset c
    JOIN quorum.applied a ON a.gid = c.gid
    CROSS JOIN LATERAL (SELECT CASE WHEN ${digest} THEN c.body::jsonb ELSE '{}' END AS body OFFSET 0) j
    CROSS JOIN LATERAL (
      SELECT w FROM jsonb_array_elements(j.body->'writes') w
      UNION ALL
      SELECT jsonb_build_array(p->'t', n)
      FROM jsonb_array_elements(j.body->'rows') p, unnest((p->>'n')::int[]) n) x
    WHERE NOT EXISTS (
      SELECT FROM quorum.history h
      WHERE h.gid = c.gid AND h.t = w->>0 AND h.n = (w->>1)::int)
    ${MOST}`,
  `
    SELECT 'read mark' AS kind, ${at('b')} AS object, format('lacks the mark of %s', c.gid) AS says
    FROM quorum.changeset c
    JOIN quorum.applied a ON a.gid = c.gid
    CROSS JOIN LATERAL (SELECT CASE WHEN ${digest} THEN c.body::jsonb ELSE '{}' END AS body OFFSET 0) j
    CROSS JOIN LATERAL (
      SELECT b.t, b.n, b.v
      FROM jsonb_to_recordset(j.body->'base') b(t text, n int, w bool, i bool, v bigint)
      WHERE NOT b.w
        AND NOT b.i
        AND b.n >= 0
        AND NOT j.body->'writes' @> jsonb_build_array(jsonb_build_array(b.t, b.n))
      UNION ALL
      SELECT p->>'t', u.n, u.v
      FROM jsonb_array_elements(j.body->'rows') p, unnest((p->>'r')::int[], (p->>'rv')::bigint[]) u(n, v)) b
    LEFT JOIN quorum.stripe s ON s.t = b.t AND s.n = b.n
    WHERE coalesce(s.version, 0) = b.v
      -- (or it was taken into another's)
      AND NOT EXISTS (
        SELECT FROM quorum.mark m WHERE m.t = b.t AND m.n = b.n AND (m.gid = c.gid OR m.total IS NOT NULL))
    ${MOST}`,
  `
    SELECT
      'read mark' AS kind,
      ${at('m')} AS object,
      format('has a mark of %s at version %s, and stands at %s%s',
        m.gid,
        m.version,
        coalesce(s.version, 0),
        CASE WHEN a.gid IS NULL THEN '; that transaction was not applied' ELSE '' END) AS says
    FROM quorum.mark m
    LEFT JOIN quorum.stripe s ON s.t = m.t AND s.n = m.n
    LEFT JOIN quorum.applied a ON a.gid = m.gid
    WHERE m.version <> coalesce(s.version, 0) OR (a.gid IS NULL AND NOT quorum.may_be_forgotten(m.gid))
    ${MOST}`,
  `
    SELECT
      'ballot' AS kind,
      b.gid AS object,
      format('accepted ballot %s, but promised only %s', b.accepted, b.promised) AS says
    FROM quorum.ballot b
    WHERE b.accepted > b.promised OR (b.accepted > 0) <> (b.decision IS NOT NULL)
    ${MOST}`,
] as const
