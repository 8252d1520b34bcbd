-- The second wall around a client's rows, behind the service's own: without a client named in the
-- transaction (SET LOCAL memory.client_id) a query sees nothing, whatever it says. The queue, the cleanup
-- and operators work across clients and say so (SET LOCAL memory.scope = 'system').
-- FORCE, because the role that owns the tables is the one that queries them.

CREATE FUNCTION memory.current_client() RETURNS integer
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT nullif(current_setting('memory.client_id', true), '')::integer
$$;

CREATE FUNCTION memory.is_system() RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT coalesce(current_setting('memory.scope', true), '') = 'system'
$$;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['conversations', 'episodes', 'memory_entries', 'memory_facts',
                                'working_state', 'fact_history', 'memory_terms', 'vector_outbox', 'jobs'] LOOP
        EXECUTE format('ALTER TABLE memory.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE memory.%I FORCE ROW LEVEL SECURITY', name);
        -- Sub-selects, so that the settings are read once for a query and not once for a row.
        EXECUTE format(
            'CREATE POLICY one_client ON memory.%I
                 USING (client_id = (SELECT memory.current_client()) OR (SELECT memory.is_system()))
                 WITH CHECK (client_id = (SELECT memory.current_client()) OR (SELECT memory.is_system()))',
            name);
    END LOOP;
END $$;

ALTER TABLE memory.client_profiles ENABLE ROW LEVEL SECURITY;
ALTER TABLE memory.client_profiles FORCE ROW LEVEL SECURITY;
-- A caller that knows a user id may find and create exactly that profile.
CREATE POLICY one_client ON memory.client_profiles
    USING (id = (SELECT memory.current_client())
           OR user_id = (SELECT nullif(current_setting('memory.user_id', true), ''))
           OR (SELECT memory.is_system()))
    WITH CHECK (id = (SELECT memory.current_client())
           OR user_id = (SELECT nullif(current_setting('memory.user_id', true), ''))
           OR (SELECT memory.is_system()));
