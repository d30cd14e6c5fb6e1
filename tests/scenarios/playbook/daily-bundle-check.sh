#!/bin/bash
# daily-bundle-check.sh

set -euo pipefail

echo "=== Daily Bundle Health Check ==="

# Check bundle status
STATUS=$(curl -s localhost:3000/api/contracts/status | jq -r '.contractBundle.status')
echo "Bundle status: $STATUS"

if [ "$STATUS" != "loaded" ]; then
    echo "WARNING: Bundle not loaded properly"
    curl -s localhost:3000/api/contracts/status | jq '.contractBundle.alerts'
fi

# Check for new releases
echo "Latest releases:"
demonctl contracts list-releases --limit 3

# Verify current bundle
echo "Current bundle verification:"
cd .demon/contracts/
shasum -a 256 -c bundle.sha256 && echo "✓ Verification passed" || echo "✗ Verification failed"

echo "=== Check complete ==="
