-- What was believed, when it was true (valid_*) and when we knew it (recorded_at, superseded_at).
-- A contested value waits here, unused, until it is seen again.
CREATE TABLE memory.fact_history (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    client_id      integer NOT NULL REFERENCES memory.client_profiles (id) ON DELETE CASCADE,
    fact_key       text NOT NULL CHECK (fact_key ~ '^[a-z0-9_.]{1,64}$'),
    fact_value     text NOT NULL CHECK (length(fact_value) BETWEEN 1 AND 500),
    confidence     numeric(3,2) NOT NULL CHECK (confidence BETWEEN 0 AND 1),
    status         text NOT NULL CHECK (status IN ('active', 'superseded', 'retracted', 'contested')),
    source         text NOT NULL CHECK (source IN ('assistant', 'tool', 'user', 'operator')),
    evidence       text,
    episode_id     bigint REFERENCES memory.episodes (id) ON DELETE SET NULL,
    valid_from     timestamptz NOT NULL,
    valid_to       timestamptz,
    recorded_at    timestamptz NOT NULL DEFAULT now(),
    superseded_at  timestamptz
);
CREATE INDEX fact_history_client_key ON memory.fact_history (client_id, fact_key, recorded_at);
CREATE INDEX fact_history_episode ON memory.fact_history (episode_id);
CREATE UNIQUE INDEX fact_history_one_active ON memory.fact_history (client_id, fact_key)
    WHERE status = 'active';

-- Different words for one key, so that a model's synonyms do not become two truths.
CREATE TABLE memory.fact_key_aliases (
    alias     text PRIMARY KEY CHECK (alias ~ '^[a-z0-9_.]{1,64}$'),
    fact_key  text NOT NULL CHECK (fact_key ~ '^[a-z0-9_.]{1,64}$'),
    CHECK (alias <> fact_key)
);

INSERT INTO memory.fact_key_aliases (alias, fact_key) VALUES
    ('full_name', 'name'), ('user_name', 'name'), ('first_name', 'name'), ('my_name', 'name'),
    ('nickname', 'preferred_name'), ('called', 'preferred_name'),
    ('city', 'home_city'), ('location', 'home_city'), ('lives_in', 'home_city'), ('residence', 'home_city'),
    ('current_city', 'home_city'), ('hometown', 'home_city'), ('home', 'home_city'), ('address_city', 'home_city'),
    ('country', 'home_country'), ('nation', 'home_country'), ('lives_in_country', 'home_country'),
    ('time_zone', 'timezone'), ('tz', 'timezone'),
    ('job', 'occupation'), ('profession', 'occupation'), ('job_title', 'occupation'), ('role', 'occupation'),
    ('works_as', 'occupation'), ('career', 'occupation'), ('work', 'occupation'),
    ('company', 'employer'), ('works_at', 'employer'), ('workplace', 'employer'), ('works_for', 'employer'),
    ('birth_date', 'birthday'), ('date_of_birth', 'birthday'), ('dob', 'birthday'), ('birthdate', 'birthday'),
    ('mail', 'email'), ('email_address', 'email'), ('e_mail', 'email'),
    ('telephone', 'phone'), ('phone_number', 'phone'), ('mobile', 'phone'),
    ('spouse', 'partner_name'), ('wife', 'partner_name'), ('husband', 'partner_name'),
    ('wife_name', 'partner_name'), ('husband_name', 'partner_name'), ('spouse_name', 'partner_name'),
    ('partner', 'partner_name'), ('girlfriend_name', 'partner_name'), ('boyfriend_name', 'partner_name'),
    ('dog', 'dog_name'), ('name_of_dog', 'dog_name'), ('cat', 'cat_name'), ('name_of_cat', 'cat_name'),
    ('pet', 'pet_name'), ('name_of_pet', 'pet_name'),
    ('color_preference', 'favorite_color'), ('preferred_color', 'favorite_color'), ('fav_color', 'favorite_color'),
    ('food_preference', 'favorite_food'), ('preferred_food', 'favorite_food'), ('fav_food', 'favorite_food'),
    ('allergies', 'allergy'), ('allergic_to', 'allergy'), ('food_allergy', 'allergy'),
    ('hobbies', 'hobby'), ('interests', 'hobby'), ('interest', 'hobby'),
    ('languages', 'language'), ('speaks', 'language'), ('spoken_language', 'language'),
    ('preferred_language', 'reply_language'), ('reply_in', 'reply_language'),
    ('diet_type', 'diet'), ('dietary_preference', 'diet'), ('eating_habits', 'diet')
;
