"""From the configuration to the value that the engine decides by."""

from senderscore_policy.config.model import Config
from senderscore_policy.policy.address import ClientDirectory
from senderscore_policy.policy.reply import ReplyTemplate
from senderscore_policy.policy.rules import Rules


def rules_of(config: Config) -> Rules:
    """The site's policy."""
    templates = {rule.reply for rule in config.tiers.rules if rule.reply is not None}
    settings = config.reputation
    return Rules(
        tiers=config.tiers,
        directory=ClientDirectory(config.exempt.networks, config.overrides, config.counters.ipv6_prefix),
        over_limit=ReplyTemplate(config.over_limit),
        tier_replies={template: ReplyTemplate(template) for template in templates},
        window=str(config.counters.window_of_time()),
        ask_from=1 if settings.lookup == "eager" else settings.lazy_share * config.tiers.not_asked.limit,
        observe=config.mode == "observe",
        exempt_authenticated=config.exempt.authenticated,
        count_recipients=config.counters.count == "recipients",
    )
