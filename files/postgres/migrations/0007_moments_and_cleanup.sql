-- Time stamps from before 1970 were taken as they came. Some lie before year 1, which no client library reads:
-- every answer with such a row failed. The scope, because row security hides every client's rows otherwise.
SELECT set_config('memory.scope', 'system', true);

UPDATE memory.memory_entries SET occurred_at = '1970-01-01T00:00:00Z' WHERE occurred_at < '1970-01-01T00:00:00Z';
UPDATE memory.episodes SET occurred_at = '1970-01-01T00:00:00Z' WHERE occurred_at < '1970-01-01T00:00:00Z';
UPDATE memory.memory_facts SET valid_from = '1970-01-01T00:00:00Z' WHERE valid_from < '1970-01-01T00:00:00Z';
UPDATE memory.fact_history
    SET valid_from = greatest(valid_from, '1970-01-01T00:00:00Z'),
        valid_to = greatest(valid_to, CASE WHEN valid_to IS NOT NULL THEN timestamptz '1970-01-01T00:00:00Z' END)
    WHERE valid_from < '1970-01-01T00:00:00Z' OR valid_to < '1970-01-01T00:00:00Z';

SELECT set_config('memory.scope', '', true);

-- The cleanup finds old episodes by their age, and what hangs on an episode that goes.
CREATE INDEX IF NOT EXISTS episodes_created_at ON memory.episodes (created_at);
CREATE INDEX IF NOT EXISTS jobs_episode ON memory.jobs (episode_id) WHERE episode_id IS NOT NULL;
