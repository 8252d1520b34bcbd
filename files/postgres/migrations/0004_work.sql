-- Work that outlives a request: extraction of facts, reindexing, cleanup. Taken with SKIP LOCKED and a
-- lease, so that a job whose worker died is taken again.
CREATE TABLE memory.jobs (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind          text NOT NULL CHECK (kind IN ('extract', 'reindex', 'cleanup', 'forget')),
    client_id     integer REFERENCES memory.client_profiles (id) ON DELETE CASCADE,
    episode_id    bigint REFERENCES memory.episodes (id) ON DELETE CASCADE,
    status        text NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'running', 'done', 'dead')),
    payload       jsonb NOT NULL DEFAULT '{}',
    result        jsonb,
    attempts      integer NOT NULL DEFAULT 0,
    max_attempts  integer NOT NULL DEFAULT 8,
    run_at        timestamptz NOT NULL DEFAULT now(),
    leased_until  timestamptz,
    last_error    text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    CHECK (kind <> 'extract' OR (client_id IS NOT NULL AND episode_id IS NOT NULL))
);
CREATE INDEX jobs_due ON memory.jobs (run_at, id) WHERE status IN ('queued', 'running');
CREATE UNIQUE INDEX jobs_one_extraction ON memory.jobs (episode_id) WHERE kind = 'extract';
CREATE INDEX jobs_client ON memory.jobs (client_id);
CREATE INDEX jobs_finished ON memory.jobs (updated_at) WHERE status IN ('done', 'dead');

CREATE TRIGGER touch BEFORE UPDATE ON memory.jobs
    FOR EACH ROW EXECUTE FUNCTION memory.touch_updated_at();

-- What was spent at providers, for the daily budget.
CREATE TABLE memory.provider_usage (
    day       date NOT NULL,
    purpose   text NOT NULL CHECK (purpose IN ('chat', 'embedding')),
    requests  bigint NOT NULL DEFAULT 0,
    tokens    bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (day, purpose)
);

-- That a client was forgotten, and how much went; who it was cannot be read from it.
CREATE TABLE memory.forgotten (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_hash  bytea NOT NULL,
    counts     jsonb NOT NULL,
    at         timestamptz NOT NULL DEFAULT now()
);
