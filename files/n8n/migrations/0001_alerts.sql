-- Alerts that reach n8n: from monitors and log rules through /webhook/alerts, and from failed workflows.
-- A log rule has no cooldown and sends one alert per line, so a repetition within ten minutes is counted, not stored.
CREATE TABLE alerts.event (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    fingerprint text        NOT NULL,
    source      text        NOT NULL,
    name        text        NOT NULL,
    status      text        NOT NULL,
    message     text        NOT NULL,
    payload     jsonb       NOT NULL,
    repeats     integer     NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    last_seen   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX event_fingerprint_last_seen ON alerts.event (fingerprint, last_seen DESC);
CREATE INDEX event_created_at ON alerts.event (created_at);

-- Stores one alert, or counts it when the same one was seen in the last ten minutes.
-- Events older than 90 days go with the next new one, so the table needs no timer.
CREATE FUNCTION alerts.record(body jsonb)
RETURNS TABLE (id bigint, is_new boolean, repeats integer, title text, text text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_source  text := left(coalesce(body ->> 'source', 'monitor'), 100);
    v_name    text := left(coalesce(body ->> 'monitor_name', body ->> 'rule', body ->> 'container', 'unnamed'), 200);
    v_status  text := left(coalesce(body ->> 'status', body ->> 'level', 'unknown'), 50);
    v_message text := left(coalesce(body ->> 'message', ''), 2000);
    v_print   text := md5(concat_ws(E'\x1f', v_source, v_name, v_status, v_message));
    v_id      bigint;
    v_repeats integer;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(v_print, 0));
    UPDATE alerts.event e
       SET repeats = e.repeats + 1, last_seen = now()
     WHERE e.id = (SELECT latest.id FROM alerts.event latest
                    WHERE latest.fingerprint = v_print AND latest.last_seen > now() - interval '10 minutes'
                    ORDER BY latest.last_seen DESC LIMIT 1)
    RETURNING e.id, e.repeats INTO v_id, v_repeats;
    IF v_id IS NULL THEN
        INSERT INTO alerts.event (fingerprint, source, name, status, message, payload)
        VALUES (v_print, v_source, v_name, v_status, v_message, body)
        RETURNING event.id, event.repeats INTO v_id, v_repeats;
        DELETE FROM alerts.event old WHERE old.created_at < now() - interval '90 days';
        RETURN QUERY SELECT v_id, true, v_repeats, v_name || ': ' || v_status, v_message;
    ELSE
        RETURN QUERY SELECT v_id, false, v_repeats, v_name || ': ' || v_status, v_message;
    END IF;
END
$$;
