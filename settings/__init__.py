"""What a deploy is told: settings, secrets, image pins and the names everything shares."""
